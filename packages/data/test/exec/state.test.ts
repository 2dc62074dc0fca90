import { describe, expect, test } from 'vitest'
import { type Budget, type ExecutorEvent, ExecutorState, type Instruction, type OperatorSpec } from '../../src/exec/state.ts'

const source = (tasks: number, extra: Partial<OperatorSpec> = {}): OperatorSpec => ({
  kind: 'source',
  tasks,
  tasksMax: 4,
  workers: 0,
  batchRows: undefined,
  rows: 0,
  outputBytes: 10,
  ...extra,
})
const transform = (extra: Partial<OperatorSpec> = {}): OperatorSpec => ({ ...source(0), kind: 'transform', ...extra })
const limit = (rows: number): OperatorSpec => ({ ...source(0), kind: 'limit', rows })
const roomy: Budget = { bytesMax: 1e9, outputsMax: 100, tasksMax: 100, probesMax: 100 }

function machine(operators: OperatorSpec[], budget: Budget = roomy): { send: (event: ExecutorEvent) => Instruction[]; state: ExecutorState } {
  const state = new ExecutorState(operators, budget)
  return {
    state,
    send: (event) => {
      const out = state.handle(event)
      state.checkInvariants()
      return out
    },
  }
}

const finished = (op: number, task: number, block: number, rows = 5, bytes = 10): ExecutorEvent => ({ kind: 'finished', op, task, block, rows, bytes })
const run = (op: number, task: number, inputs: [block: number, offset: number, rows: number][] = [], worker = -1): Instruction => ({
  kind: 'run',
  op,
  task,
  worker,
  inputs: inputs.map(([block, offset, rows]) => ({ block, offset, rows })),
})

describe('the streaming executor', () => {
  test('delivers blocks in task order, whatever order they finish in', () => {
    const { send } = machine([source(3)])
    expect(send({ kind: 'start' })).toEqual([run(0, 0), run(0, 1), run(0, 2)])
    expect(send({ kind: 'pull' })).toEqual([])
    expect(send(finished(0, 2, 22))).toEqual([])
    expect(send(finished(0, 0, 20))).toEqual([{ kind: 'deliver', slice: { block: 20, offset: 0, rows: 5 } }])
    expect(send(finished(0, 1, 21))).toEqual([{ kind: 'retire', op: 0 }])
    expect(send({ kind: 'pull' })).toEqual([{ kind: 'deliver', slice: { block: 21, offset: 0, rows: 5 } }])
    expect(send({ kind: 'consumed', block: 20 })).toEqual([{ kind: 'release', block: 20 }])
    expect(send({ kind: 'pull' })).toEqual([{ kind: 'deliver', slice: { block: 22, offset: 0, rows: 5 } }])
    expect(send({ kind: 'pull' })).toEqual([{ kind: 'end' }])
  })

  test('starts no source task while its outputs fill the byte budget, and goes on when one is consumed', () => {
    const { send } = machine([source(4)], { bytesMax: 20, outputsMax: 100, tasksMax: 100, probesMax: 100 })
    expect(send({ kind: 'start' })).toEqual([run(0, 0), run(0, 1)])
    send(finished(0, 0, 1))
    expect(send(finished(0, 1, 2))).toEqual([])
    send({ kind: 'pull' })
    expect(send({ kind: 'consumed', block: 1 })).toEqual([{ kind: 'release', block: 1 }, run(0, 2)])
  })

  test('keeps no more outputs unconsumed than the budget allows, those of running tasks included', () => {
    const { send } = machine([source(4)], { bytesMax: 1e9, outputsMax: 2, tasksMax: 100, probesMax: 100 })
    expect(send({ kind: 'start' })).toEqual([run(0, 0), run(0, 1)])
    send({ kind: 'pull' })
    expect(send(finished(0, 0, 1))).toEqual([{ kind: 'deliver', slice: { block: 1, offset: 0, rows: 5 } }])
    expect(send({ kind: 'consumed', block: 1 })).toEqual([{ kind: 'release', block: 1 }, run(0, 2)])
  })

  test('tries few tasks of an operator before it knows how large their outputs are', () => {
    const { send } = machine([source(9, { tasksMax: 9 })], { ...roomy, probesMax: 2 })
    expect(send({ kind: 'start' })).toEqual([run(0, 0), run(0, 1)])
    expect(send(finished(0, 1, 1))).toHaveLength(7)
  })

  test('runs one task over any budget when nothing else could make progress', () => {
    const { send } = machine([source(2, { outputBytes: 1000 })], { bytesMax: 20, outputsMax: 100, tasksMax: 100, probesMax: 100 })
    expect(send({ kind: 'start' })).toEqual([])
    expect(send({ kind: 'pull' })).toEqual([run(0, 0)])
  })

  test('fills batches across blocks and leaves a short one only at the end', () => {
    const { send } = machine([source(3), transform({ batchRows: 8 })])
    send({ kind: 'start' })
    send({ kind: 'pull' })
    expect(send(finished(0, 0, 1))).toEqual([])
    expect(send(finished(0, 1, 2))).toEqual([
      run(1, 0, [
        [1, 0, 5],
        [2, 0, 3],
      ]),
    ])
    expect(send(finished(0, 2, 3))).toEqual([
      run(1, 1, [
        [2, 3, 2],
        [3, 0, 5],
      ]),
      { kind: 'retire', op: 0 },
    ])
    expect(send(finished(1, 0, 10))).toEqual([
      { kind: 'release', block: 1 },
      { kind: 'deliver', slice: { block: 10, offset: 0, rows: 5 } },
    ])
  })

  test('spreads tasks over the workers of a pool', () => {
    const { send } = machine([source(4), transform({ workers: 2, tasksMax: 4 })])
    send({ kind: 'start' })
    const workers = [0, 1, 2, 3].flatMap((task) => send(finished(0, task, task))).filter((instruction) => instruction.kind === 'run')
    expect(workers.map(({ worker }) => worker)).toEqual([0, 1, 0, 1])
  })

  test('a satisfied limit cancels what runs above it and releases what is queued', () => {
    const { send } = machine([source(4), limit(7)])
    send({ kind: 'start' })
    send({ kind: 'pull' })
    expect(send(finished(0, 0, 1))).toEqual([{ kind: 'deliver', slice: { block: 1, offset: 0, rows: 5 } }])
    expect(send(finished(0, 3, 4))).toEqual([])
    expect(send(finished(0, 1, 2))).toEqual([
      { kind: 'cancel', op: 0, task: 2 },
      { kind: 'release', block: 4 },
      { kind: 'retire', op: 0 },
      { kind: 'retire', op: 1 },
    ])
    expect(send({ kind: 'pull' })).toEqual([{ kind: 'deliver', slice: { block: 2, offset: 0, rows: 2 } }])
    expect(send({ kind: 'pull' })).toEqual([{ kind: 'end' }])
    // Too late: the task finished before its cancellation arrived.
    expect(send(finished(0, 2, 3))).toEqual([{ kind: 'release', block: 3 }])
  })

  test('a failure cancels everything, retires the pools and releases every block', () => {
    const { send, state } = machine([source(3), transform({ workers: 1, tasksMax: 2 })])
    send({ kind: 'start' })
    send(finished(0, 0, 1))
    const error = new Error('boom')
    expect(send({ kind: 'failed', op: 1, task: 0, error })).toEqual([
      { kind: 'release', block: 1 },
      { kind: 'cancel', op: 0, task: 1 },
      { kind: 'cancel', op: 0, task: 2 },
      { kind: 'retire', op: 0 },
      { kind: 'retire', op: 1 },
      { kind: 'fail', op: 1, task: 0, error },
    ])
    expect(state.heldBytes).toBe(0)
    expect(send({ kind: 'failed', op: 0, task: 1, error })).toEqual([])
  })

  test('stopping early leaves nothing but what the consumer holds', () => {
    const { send, state } = machine([source(3)])
    send({ kind: 'start' })
    send({ kind: 'pull' })
    send(finished(0, 0, 1))
    send(finished(0, 1, 2))
    expect(send({ kind: 'stop' })).toEqual([
      { kind: 'cancel', op: 0, task: 2 },
      { kind: 'retire', op: 0 },
      { kind: 'release', block: 2 },
    ])
    expect(send({ kind: 'consumed', block: 1 })).toEqual([{ kind: 'release', block: 1 }])
    expect(state.heldBytes).toBe(0)
  })
})
