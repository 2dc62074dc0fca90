/**
 * One random story of a cluster: demands, actors and groups, faults, and in the end everything done and given back.
 */
import { expect } from 'vitest'
import { amounts } from './machine.ts'
import { SimCluster } from './sim-cluster.ts'
import { cpus, type SimProcess } from './sim-process.ts'

export interface Faults {
  readonly nodes?: boolean
  readonly head?: boolean
  readonly processes?: boolean
  readonly drain?: boolean
  readonly duplicates?: boolean
  /** Drivers go on with another node when theirs dies. */
  readonly moves?: boolean
}

const STRATEGIES = ['PACK', 'SPREAD', 'STRICT_PACK', 'STRICT_SPREAD']

export function run(seed: number, steps: number, faults: Faults, trace?: (line: string) => void): void {
  const sim = new SimCluster({ seed, duplicates: faults.duplicates === true, moves: faults.moves === true, ...(trace && { trace }) })
  for (let i = 0; i < 3; i++) sim.join()
  sim.deliverAll()
  const drivers: SimProcess[] = [sim.driver(sim.nodes.get(sim.head) as never), ...sim.living.slice(1, 3).map((node) => sim.driver(node))]
  let count = 0
  const act = (): void => {
    const driver = sim.pick(drivers.filter(({ alive }) => alive))
    if (driver === undefined) return
    const what = sim.random()
    if (what < 0.4) {
      const spread = sim.random() < 0.2
      const key = spread ? 9 : Math.floor(sim.random() * 3)
      driver.submit(key, spread ? cpus(1, { spread }) : cpus([1, 0.5, 2][key] as number), 1 + Math.floor(sim.random() * 8))
    } else if (what < 0.5) driver.createActor(`a${count++}`, sim.random() < 0.5, sim.random() < 0.5 ? -1 : 0, cpus(sim.random() < 0.5 ? 0 : 0.5))
    else if (what < 0.55) {
      const actor = sim.pick(driver.actors.keys())
      if (actor !== undefined) driver.stopActor(actor)
    } else if (what < 0.62) {
      const bundles = Array.from({ length: 1 + Math.floor(sim.random() * 3) }, () => amounts({ cpus: 2_500 }))
      const strategy = sim.pick(STRATEGIES) as string
      driver.createGroup({ group: `g${count++}`, name: '', strategy, bundles, detached: sim.random() < 0.3, selectors: [] })
    } else if (what < 0.68) {
      const group = sim.pick(driver.groups.keys())
      if (group !== undefined) driver.submit(100 + Number(group.slice(1)), cpus(0.25, { placementGroup: group }), 2)
    } else if (what < 0.72) {
      const group = sim.pick(driver.groups.keys())
      if (group !== undefined) driver.removeGroup(group)
    }
  }
  const fault = (): void => {
    const what = sim.random()
    const others = sim.living.filter(({ id }) => id !== sim.head)
    if (what < 0.3 && faults.nodes === true && others.length > 1) sim.killNode(sim.pick(others) as never, faults.moves)
    else if (what < 0.5 && faults.nodes === true && sim.living.length < 6) sim.join()
    else if (what < 0.7 && faults.head === true) sim.crashHead(Math.floor(sim.random() * 20))
    else if (what < 0.85 && faults.processes === true) {
      const process = sim.pick([...sim.processes.values()].filter(({ alive, kind }) => alive && kind === 'worker'))
      if (process !== undefined) sim.killProcess(process)
    } else if (faults.drain === true && others.length > 2) sim.drain(sim.pick(others) as never)
  }
  for (let step = 0; step < steps; step++) {
    const what = sim.random()
    if (what < 0.06) act()
    else if (what < 0.07) fault()
    else if (what < 0.12) sim.tick()
    else if (what < 0.3) sim.pick(drivers.filter(({ alive }) => alive))?.step(sim.random)
    else sim.deliver()
  }
  sim.crashHead(Number.POSITIVE_INFINITY)
  sim.settle(120)
  const alive = drivers.filter((driver) => driver.alive)
  const head = sim.nodes.get(sim.head)
  const { actors, groups, nodes } = head?.machine.control as NonNullable<typeof head>['machine']['control']
  const waits = (id: string): boolean => {
    const group = groups.groups.get(id)
    return group !== undefined && group.state !== 'REMOVED' && group.committed.size === 0
  }
  for (const driver of alive) {
    // Tasks of a group wait while all of it waits for nodes.
    const works = driver.works.filter(({ key }) => key < 100 || !waits(`g${key - 100}`))
    expect(works.map(({ key, pending }) => [key, pending])).toEqual(works.map(({ key }) => [key, 0]))
    expect(driver.leases.size).toBe(0)
  }
  expect([...nodes.members.keys()].sort()).toEqual(sim.living.map(({ id }) => id).sort())
  for (const actor of actors.actors.values()) {
    expect([actor.id, sim.runsOf(actor.id).length]).toEqual([actor.id, actor.state === 'ALIVE' ? 1 : 0])
    if (actor.state !== 'DEAD') expect([actor.id, actor.state]).toEqual([actor.id, 'ALIVE'])
  }
  for (const driver of alive) {
    for (const [id, { state }] of driver.actors) expect([id, state]).toEqual([id, actors.actors.get(id)?.state])
    for (const [id, { state }] of driver.groups) expect([id, state]).toEqual([id, groups.groups.get(id)?.state ?? 'REMOVED'])
  }
  for (const group of groups.groups.values()) {
    if (group.state === 'REMOVED') continue
    expect([group.id, group.state === 'CREATED' || group.strategy === 'STRICT_SPREAD']).toEqual([group.id, true])
    for (const [index, node] of group.nodes.entries()) {
      if (group.state !== 'CREATED') continue
      expect([group.id, index, sim.nodes.get(node)?.machine.node.tables.groups.get(group.id)?.bundles.get(index)?.state]).toEqual([
        group.id,
        index,
        'committed',
      ])
    }
  }
  // In the end everything is given back.
  alive.push(sim.driver(head as never))
  for (const driver of alive) {
    for (const actor of actors.actors.keys()) driver.stopActor(actor)
    for (const group of groups.groups.keys()) driver.removeGroup(group)
  }
  sim.settle(20)
  for (const driver of alive) sim.killProcess(driver)
  sim.settle(40)
  for (const { machine } of sim.living) {
    const { root, leases, placements, queue, groups: left } = machine.node.tables
    const name = machine.node.tables.config.node
    expect([name, root.available(), leases.size, placements.size, queue.length, left.size]).toEqual([name, root.total, 0, 0, 0, 0])
  }
}
