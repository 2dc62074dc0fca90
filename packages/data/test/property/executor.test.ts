/**
 * Random chains of operators, random finishing orders and random consumers against the machine's invariants and a model of plain arrays:
 * every row comes out exactly once and in order, budgets hold, and at the end nothing is left.
 */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { ExecutorState, type Instruction, type OperatorSpec, type Slice } from '../../src/exec/state.ts'

const spec: OperatorSpec = { kind: 'transform', tasks: 0, tasksMax: 4, workers: 0, batchRows: undefined, rows: 0, outputBytes: 1 }

const operator = fc.oneof(
  fc
    .record({ tasksMax: fc.integer({ min: 1, max: 4 }), batchRows: fc.option(fc.integer({ min: 1, max: 12 }), { nil: undefined }), workers: fc.nat(2) })
    .map((extra) => ({ ...spec, ...extra })),
  fc.nat(40).map((rows) => ({ ...spec, kind: 'limit' as const, rows })),
)

const job = fc.record({
  blocks: fc.array(fc.nat(9), { maxLength: 12 }),
  operators: fc.array(operator, { maxLength: 3 }),
  bytesMax: fc.integer({ min: 1, max: 60 }),
  outputsMax: fc.integer({ min: 1, max: 6 }),
  choices: fc.infiniteStream(fc.nat(1000)),
  failAt: fc.option(fc.nat(20), { freq: 4 }),
  stopAt: fc.option(fc.nat(30), { freq: 4 }),
})

test('every row comes out once and in order, within budget, and nothing is left behind', () => {
  fc.assert(
    fc.property(job, ({ blocks, operators, bytesMax, outputsMax, choices, failAt, stopAt }) => {
      const specs = [{ ...spec, kind: 'source' as const, tasks: blocks.length }, ...operators]
      const state = new ExecutorState(specs, { bytesMax, outputsMax, tasksMax: 6, probesMax: 2 })
      const choose = (n: number): number => (choices.next().value as number) % n

      const contents = new Map<number, number[]>() // block → its rows
      const running = new Map<string, { op: number; task: number; rows: number[] }>()
      const holding: number[] = []
      const seen: number[] = []
      const batches: { op: number; rows: number }[] = []
      let nextBlock = 0
      let pulls = 0
      let outcome: Instruction['kind'] | undefined
      let events = 0
      const starts = blocks.map((_, i) => blocks.slice(0, i).reduce((a, b) => a + b, 0))
      const rowsOf = ({ block, offset, rows }: Slice): number[] => (contents.get(block) as number[]).slice(offset, offset + rows)

      const send = (event: Parameters<ExecutorState['handle']>[0]): void => {
        const regardless = running.size === 0
        for (const instruction of state.handle(event)) {
          switch (instruction.kind) {
            case 'run': {
              const { op, task, inputs } = instruction
              const start = starts[task] as number
              const rows = op === 0 ? Array.from({ length: blocks[task] as number }, (_, i) => start + i) : inputs.flatMap(rowsOf)
              if (op > 0) batches.push({ op, rows: rows.length })
              running.set(`${op}:${task}`, { op, task, rows })
              break
            }
            case 'cancel':
              expect(running.delete(`${instruction.op}:${instruction.task}`)).toBe(true)
              break
            case 'release':
              expect(contents.delete(instruction.block)).toBe(true)
              break
            case 'deliver':
              pulls--
              seen.push(...rowsOf(instruction.slice))
              holding.push(instruction.slice.block)
              break
            case 'end':
            case 'fail':
              expect(outcome).toBeUndefined()
              outcome = instruction.kind
              break
            case 'retire':
              break
          }
        }
        state.checkInvariants()
        if (!regardless) expect(running.size).toBeLessThanOrEqual(6 + specs.reduce((sum, { workers, tasksMax }) => sum + (workers > 0 ? tasksMax : 0), 0))
      }

      send({ kind: 'start' })
      while (outcome === undefined && state.phase === 'running') {
        if (++events > 2_000) throw new Error('no end in sight')
        if (stopAt !== null && events === stopAt) {
          send({ kind: 'stop' })
          break
        }
        const tasks = [...running.values()]
        const options = [...(pulls === 0 ? ['pull'] : []), ...(holding.length > 0 ? ['consume'] : []), ...(tasks.length > 0 ? ['finish'] : [])]
        expect(options.length).toBeGreaterThan(0) // else it hangs
        const option = options[choose(options.length)]
        if (option === 'pull') {
          pulls++
          send({ kind: 'pull' })
        } else if (option === 'consume') send({ kind: 'consumed', block: holding.splice(choose(holding.length), 1)[0] as number })
        else {
          const { op, task, rows } = tasks[choose(tasks.length)] as { op: number; task: number; rows: number[] }
          running.delete(`${op}:${task}`)
          if (events === failAt) send({ kind: 'failed', op, task, error: 'boom' })
          else {
            contents.set(nextBlock, rows)
            send({ kind: 'finished', op, task, block: nextBlock++, rows: rows.length, bytes: rows.length })
          }
        }
      }
      for (const block of holding.splice(0)) send({ kind: 'consumed', block })

      const wanted = Math.min(
        ...operators.filter(({ kind }) => kind === 'limit').map(({ rows }) => rows),
        blocks.reduce((a, b) => a + b, 0),
      )
      if (outcome === 'end') expect(seen).toEqual(Array.from({ length: wanted }, (_, i) => i))
      else expect(seen).toEqual(Array.from({ length: seen.length }, (_, i) => i))
      expect({ blocks: contents.size, running: running.size, bytes: state.heldBytes }).toEqual({ blocks: 0, running: 0, bytes: 0 })
      for (const [op, { batchRows }] of specs.entries()) {
        const sizes = batches.filter((batch) => batch.op === op).map(({ rows }) => rows)
        if (batchRows !== undefined) for (const size of sizes.slice(0, -1)) expect(size % batchRows).toBe(0)
      }
    }),
    { numRuns: 500 },
  )
})
