/** Which process is where, as daemons tell each other. */
import { expect, test } from 'vitest'
import { KnownNodes } from '../../src/daemon/known-nodes.ts'
import type { MeshBody } from '../../src/daemon/mesh.ts'
import { ProcessDirectory } from '../../src/daemon/process-directory.ts'
import type { NodeInfo, ProcessInfo } from '../../src/net/gen/mesh.ts'
import type { ProcessMessage } from '../../src/net/gen/node.ts'
import type { MachineEvent } from '../../src/state/machine-state.ts'
import { info } from '../state/head.ts'
import { JOB } from '../state/machine.ts'

const DRIVER = 'd'.repeat(16)
const driver = (attach: number): ProcessInfo => ({ process: DRIVER, kind: 'driver', pid: 1, address: 'there', job: JOB, jobId: DRIVER, attach })
const freed: ProcessMessage['body'] = { $case: 'objectsFreed', value: { places: [] } }

/** The directory of node `self`, and what it did. */
class Daemon {
  readonly nodes = new KnownNodes('self')
  readonly sent: [string, MeshBody][] = []
  readonly did: unknown[] = []
  here: ProcessInfo[] = []
  readonly #attaches = new Map<string, number>()
  readonly directory = new ProcessDirectory({ nodes: this.nodes, head: () => 'head', send: (node, body) => this.sent.push([node, body]) })

  constructor(...nodes: NodeInfo[]) {
    this.nodes.see({ all: true, nodes: [info('self'), ...nodes] })
    this.directory.connect({
      handle: (event: MachineEvent) => {
        if (event.kind === 'process-attached') this.#attaches.set(event.process, event.attach ?? 1)
        this.did.push(event.kind === 'process-attached' ? [event.kind, event.node] : [event.kind])
      },
      deliver: (process, message) => {
        const isHere = this.here.some((each) => each.process === process)
        if (isHere) this.did.push([message.$case, message.value])
        return isHere
      },
      local: () => this.here,
      attachOf: (process) => this.here.find((each) => each.process === process)?.attach ?? this.#attaches.get(process),
      fromRemote: (_process, body) => this.did.push([body.$case]),
      remoteGone: (process) => this.did.push(['gone', process]),
    })
  }

  take(): unknown[] {
    return this.did.splice(0)
  }

  /** To whom something was sent, and what. */
  told(): unknown[] {
    return this.sent.splice(0).map(([node, body]) => [node, body.$case, body.$case === 'fromProcess' ? body.value.process?.attach : undefined])
  }
}

test('the first message of a process introduces it, and its end is told to whoever knows it', () => {
  const daemon = new Daemon(info('n1'))
  daemon.here = [driver(1)]
  daemon.directory.attached(DRIVER, 'driver', 1)
  daemon.directory.send('n1', DRIVER, freed)
  daemon.directory.send('n1', DRIVER, freed)
  daemon.directory.detached(DRIVER, true)
  expect(daemon.told()).toEqual([
    ['head', 'fromProcess', 1],
    ['n1', 'fromProcess', 1],
    ['n1', 'fromProcess', undefined],
    ['head', 'processGone', undefined],
    ['n1', 'processGone', undefined],
  ])
})

test('what the former daemon of a driver says comes too late, also its end, once the driver is elsewhere', () => {
  const daemon = new Daemon(info('old'), info('new'))
  daemon.directory.came('old', DRIVER, driver(1), freed)
  daemon.directory.came('new', DRIVER, driver(2), undefined)
  expect(daemon.take()).toEqual([['process-attached', 'old'], ['objectsFreed'], ['process-attached', 'new']])
  daemon.directory.came('old', DRIVER, driver(1), freed)
  daemon.directory.gone('old', { process: DRIVER, inOrder: false })
  expect([daemon.directory.nodeOf(DRIVER), daemon.take()]).toEqual(['new', []])
  daemon.directory.came('new', DRIVER, undefined, freed)
  expect(daemon.take()).toEqual([['objectsFreed']])
})

test('a driver that came to this daemon stays here whatever its former one still says', () => {
  const daemon = new Daemon(info('old'))
  daemon.here = [driver(2)]
  daemon.directory.attached(DRIVER, 'driver', 2)
  daemon.directory.came('old', DRIVER, driver(1), freed)
  expect(daemon.directory.isAt('old', driver(1))).toBe(false)
  expect([daemon.directory.nodeOf(DRIVER), daemon.take()]).toEqual([undefined, []])
})

test('a driver that came here is introduced to every node, also to those that are told later, and outlives its former one', () => {
  const daemon = new Daemon(info('old'), info('n1'))
  daemon.here = [driver(2)]
  daemon.directory.attached(DRIVER, 'driver', 2)
  daemon.directory.send('n2', DRIVER, freed)
  expect(daemon.told()).toEqual([
    ['old', 'fromProcess', 2],
    ['n1', 'fromProcess', 2],
    ['head', 'fromProcess', 2],
  ])
  daemon.nodes.see({ all: false, nodes: [info('n2')] })
  daemon.directory.introduceMoved()
  expect(daemon.told()).toEqual([['n2', 'fromProcess', 2]])
  const lost = { node: 'old', number: 3, cause: { code: 'NODE_LOST', detailsJson: '{}' } }
  daemon.directory.nodeLost({ kind: 'node-lost', ...lost })
  expect(daemon.take()).toEqual([['nodeLost', { ...lost, survivors: [DRIVER] }]])
})

test('survivors of a node are also drivers at other nodes, and not those that the node itself had', () => {
  const other = 'e'.repeat(16)
  const daemon = new Daemon(info('old'), info('new'))
  daemon.here = [driver(1)]
  daemon.directory.came('new', other, { ...driver(2), process: other }, undefined)
  daemon.take()
  const cause = { code: 'NODE_LOST', detailsJson: '{}' }
  daemon.directory.nodeLost({ kind: 'node-lost', node: 'old', number: 3, cause })
  expect(daemon.take()).toMatchObject([['nodeLost', { survivors: [other] }]])
  daemon.directory.nodeLost({ kind: 'node-lost', node: 'new', number: 4, cause })
  expect(daemon.take()).toMatchObject([
    ['nodeLost', { survivors: [] }],
    ['gone', other],
  ])
})
