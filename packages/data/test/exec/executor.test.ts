/** The executor's edge, on a cluster in this process: what is started is finished or cancelled, what is made is released. */
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { execute } from '../../src/exec/executor.ts'
import { ANY_WORKER, type Compute, type LogicalPlan, type Stage } from '../../src/plan/logical.ts'
import { planPhysical } from '../../src/plan/physical.ts'
import { LocalCluster } from '../local-cluster.ts'

const digits = fileURLToPath(new URL('../../../../examples/data/digits.parquet', import.meta.url))
const read: LogicalPlan = { kind: 'readParquet', paths: [digits], columns: ['label'], limit: undefined, conditions: [] }
const filter = (fn: (row: never) => unknown): Stage => ({ kind: 'filter', name: 'test', fn })
const filtered = (fn: (row: never) => unknown): LogicalPlan => ({
  kind: 'transform',
  input: read,
  stages: [filter(fn)],
  compute: { ...ANY_WORKER, concurrency: 2 },
})

const nothingLeft = (cluster: LocalCluster): void =>
  expect({ blocks: cluster.blocks.size, running: cluster.running, hosts: cluster.openHosts }).toEqual({ blocks: 0, running: 0, hosts: 0 })

describe('an execution', () => {
  test('gives all rows in order and leaves nothing', async () => {
    const cluster = new LocalCluster()
    // Later row groups finish first.
    const order: (() => void)[] = []
    cluster.gate = ({ source }) =>
      source === undefined
        ? undefined
        : new Promise<void>((resolve) => {
            order.push(resolve)
            if (order.length === 4) for (const release of order.reverse()) release()
          })
    const rows: number[] = []
    for await (const { block, offset, rows: count, done } of execute(await planPhysical(filtered(() => true)), cluster, { budget: { probesMax: 4 } })) {
      rows.push(
        ...((await cluster.read(block as object))
          .getChildAt(0)
          ?.slice(offset, offset + count)
          .toArray() as Int8Array),
      )
      done()
    }
    expect(rows).toHaveLength(1797)
    expect(rows.slice(0, 5)).toEqual([0, 1, 2, 3, 4])
    nothingLeft(cluster)
  })

  test('that is left early cancels what runs', async () => {
    const cluster = new LocalCluster()
    cluster.gate = ({ part, source }) => (source !== undefined && part > 0 ? new Promise(() => undefined) : undefined)
    for await (const { done } of execute(await planPhysical(read), cluster, { budget: { probesMax: 4 } })) {
      done()
      break
    }
    expect(cluster.cancelled).toBe(3)
    nothingLeft(cluster)
  })

  test('that is aborted rejects with the reason and cancels what runs', async () => {
    const cluster = new LocalCluster()
    const controller = new AbortController()
    const reason = new Error('enough')
    cluster.gate = ({ part }) => {
      if (part === 3) controller.abort(reason)
      return new Promise(() => undefined)
    }
    const run = execute(await planPhysical(read), cluster, { signal: controller.signal, budget: { probesMax: 4 } })
    await expect(run.next()).rejects.toBe(reason)
    nothingLeft(cluster)
  })

  test('that fails rejects with the error of the task and cancels the others', async () => {
    const cluster = new LocalCluster()
    const plan = filtered(() => {
      throw new Error('boom')
    })
    await expect(execute(await planPhysical(plan), cluster).next()).rejects.toThrow('boom')
    nothingLeft(cluster)
  })

  test('with a limit starts no more source tasks than hold those rows', async () => {
    const cluster = new LocalCluster()
    const plan = await planPhysical({ ...read, limit: 500 } as LogicalPlan)
    let rows = 0
    for await (const delivery of execute(plan, cluster)) {
      rows += delivery.rows
      delivery.done()
    }
    expect({ rows, started: cluster.started }).toEqual({ rows: 500, started: 2 })
    nothingLeft(cluster)
  })

  test('whose pools cannot fit beside a task is refused before anything starts', async () => {
    const cluster = new LocalCluster()
    const pool = (compute: Partial<Compute>): LogicalPlan => ({
      kind: 'transform',
      input: read,
      stages: [filter(() => true)],
      compute: { ...ANY_WORKER, kind: 'pool', ...compute },
    })
    const refused = execute(await planPhysical(pool({ concurrency: 2, cpus: 1 })), cluster).next()
    await expect(refused).rejects.toMatchObject({
      code: 'INFEASIBLE',
      details: { wanted: '2 cpus for its workers and 1 for a task beside them', has: /^2 cpus/ },
    })
    await expect(execute(await planPhysical(pool({ concurrency: 1, gpus: 1 })), cluster).next()).rejects.toMatchObject({ code: 'INFEASIBLE' })
    expect(cluster.openHosts).toBe(0)
    for await (const { done } of execute(await planPhysical(pool({ concurrency: 1, cpus: 1 })), cluster)) done()
    nothingLeft(cluster)
  })

  test('never holds more blocks than its budget while the consumer is slow', async () => {
    const cluster = new LocalCluster()
    let most = 0
    const budget = { outputsMax: 1, tasksMax: 1 }
    for await (const { done } of execute(await planPhysical(read), cluster, { budget })) {
      await new Promise(setImmediate)
      most = Math.max(most, cluster.blocks.size)
      done()
    }
    expect(most).toBe(1)
    nothingLeft(cluster)
  })
})
