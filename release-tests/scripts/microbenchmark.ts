/**
 * runtime-microbenchmark: the reference system's own microbenchmark, the same operations under the same names, with three yardsticks. Groups of
 * benches that are compared with each other are measured together.
 */
import { availableParallelism } from 'node:os'
import { get, init, placementGroup, put, remote, wait } from '@beamline/runtime'
import type { ObjectRef } from '@beamline/runtime'
import { type Bench, measureTogether, wanted } from '../src/measure.ts'
import { AsyncServer, Client, Server, callInTurn, listOfRefs, putLargeValues, putSmallValues, smallValue } from './workload.ts'
import { memcpy } from './yardsticks/memcpy.ts'
import { pingPong } from './yardsticks/ping-pong.ts'
import { threadPool } from './yardsticks/thread-pool.ts'

const CPUS = availableParallelism()
const MANY = 1000
const MIB = 1024 * 1024
const LARGE_BYTES = 800 * MIB
/** The reference suite calls 100 MiB × 8 bytes 0.8 GB; its unit is kept so that the figures compare. */
const LARGE_GIGABYTES = 0.8

function times(factor: number): (callsPerSecond: number) => number {
  return (callsPerSecond) => callsPerSecond * factor
}

const many = (submit: () => ObjectRef<unknown>): (() => Promise<unknown>) => {
  return () => get(Array.from({ length: MANY }, submit))
}

/** Every group is prepared, measured and taken down before the next one; one of whose benches nothing is wanted is left out. */
const groups: readonly { readonly names: readonly string[]; readonly run: () => Promise<void> }[] = [
  {
    names: ['yardstick_ping_pong', 'single_client_tasks_sync', '1_1_actor_calls_sync', '1_1_async_actor_calls_sync'],
    async run() {
      await using pair = await pingPong()
      const actor = remote(Server, { cpus: 0 }).remote()
      const asyncActor = remote(AsyncServer, { cpus: 0 }).remote()
      await measureTogether(
        pair.bench,
        { name: 'single_client_tasks_sync', op: () => get(smallValue.remote()) },
        { name: '1_1_actor_calls_sync', op: () => get(actor.smallValue.remote()) },
        { name: '1_1_async_actor_calls_sync', op: () => get(asyncActor.smallValue.remote()) },
      )
    },
  },
  {
    names: ['yardstick_piscina_sequential', 'yardstick_piscina_concurrent', 'single_client_tasks_async', 'single_client_tasks_and_get_batch'],
    async run() {
      await using pool = threadPool()
      const submitAndGet = many(() => smallValue.remote())
      await measureTogether(
        pool.sequential,
        pool.concurrent,
        { name: 'single_client_tasks_async', sample: times(MANY), op: submitAndGet },
        { name: 'single_client_tasks_and_get_batch', op: submitAndGet },
      )
    },
  },
  {
    names: ['yardstick_memcpy_gigabytes', 'single_client_put_gigabytes', 'single_client_get_800MiB_ms'],
    async run() {
      const large = new BigInt64Array(LARGE_BYTES / BigInt64Array.BYTES_PER_ELEMENT).fill(1n)
      using copy = memcpy(new Uint8Array(large.buffer), { gigabytes: LARGE_GIGABYTES })
      await measureTogether(copy.bench, {
        name: 'single_client_put_gigabytes',
        unit: 'GB/s',
        sample: times(LARGE_GIGABYTES),
        op: async () => (await put(large)).release(),
      })
      if (!wanted('single_client_get_800MiB_ms')) return
      using stored = await put(large)
      await measureTogether({
        name: 'single_client_get_800MiB_ms',
        measure: 'latency',
        op: async () => {
          if ((await get(stored)).at(-1) !== 1n) throw new Error('the array came back with another value')
        },
      })
    },
  },
  {
    names: [
      'single_client_get_calls_Plasma_Store',
      'single_client_put_calls_Plasma_Store',
      'multi_client_put_calls_Plasma_Store',
      'multi_client_put_gigabytes',
    ],
    async run() {
      using stored = await put(0)
      await measureTogether(
        { name: 'single_client_get_calls_Plasma_Store', op: () => get(stored) },
        { name: 'single_client_put_calls_Plasma_Store', op: async () => (await put(0)).release() },
        {
          name: 'multi_client_put_calls_Plasma_Store',
          sample: times(1000),
          op: () => get(Array.from({ length: 10 }, () => putSmallValues.remote(100))),
        },
        {
          name: 'multi_client_put_gigabytes',
          unit: 'GB/s',
          sample: times(10 * LARGE_GIGABYTES),
          op: () => get(Array.from({ length: 10 }, () => putLargeValues.remote(10, LARGE_BYTES / 10))),
        },
      )
    },
  },
  {
    names: ['single_client_get_object_containing_10k_refs', 'single_client_wait_1k_refs'],
    async run() {
      using refs = listOfRefs.remote(10_000)
      await measureTogether(
        { name: 'single_client_get_object_containing_10k_refs', op: () => get(refs) },
        {
          name: 'single_client_wait_1k_refs',
          op: async () => {
            const left = Array.from({ length: MANY }, () => smallValue.remote())
            // One is taken away per call, however many are ready: the reference system's `wait` returns no more than it is asked for.
            while (left.length > 0) {
              const [first] = (await wait(left)).ready
              if (first === undefined) throw new Error('wait() returned without a ready reference')
              left.splice(left.indexOf(first), 1)
            }
          },
        },
      )
    },
  },
  {
    names: ['multi_client_tasks_async'],
    async run() {
      const tasks = 10_000
      const clients = Array.from({ length: 4 }, () => remote(Server, { cpus: 0 }).remote())
      await measureTogether({
        name: 'multi_client_tasks_async',
        sample: times(clients.length * tasks),
        op: () => get(clients.map((client) => client.submitTasks.remote(tasks))),
      })
    },
  },
  ...[
    { infix: 'actor', kind: Server },
    { infix: 'async_actor', kind: AsyncServer },
  ].flatMap(({ infix, kind }) => [
    {
      names: [`1_1_${infix}_calls_async`, `1_1_${infix}_calls_concurrent`, `1_1_${infix}_calls_with_args_async`],
      async run() {
        const actor = remote(kind, { cpus: 0 }).remote()
        const benches: Bench[] = [{ name: `1_1_${infix}_calls_async`, sample: times(MANY), op: many(() => actor.smallValue.remote()) }]
        if (kind === Server) {
          const concurrent = remote(kind, { cpus: 0, maxConcurrency: 16 }).remote()
          benches.push({ name: `1_1_${infix}_calls_concurrent`, sample: times(MANY), op: many(() => concurrent.smallValue.remote()) })
        } else {
          let argument = 0
          benches.push({ name: `1_1_${infix}_calls_with_args_async`, sample: times(MANY), op: many(() => actor.smallValueWithArg.remote((argument += 1))) })
        }
        await measureTogether(...benches)
      },
    },
    {
      names: [`1_n_${infix}_calls_async`, `n_n_${infix}_calls_async`],
      async run() {
        const calls = 5000
        const callers = 4
        const servers = Array.from({ length: Math.max(1, CPUS >> 1) }, () => remote(kind, { cpus: 0 }).remote())
        const client = remote(Client, { cpus: 0 }).remote(servers)
        await measureTogether(
          { name: `1_n_${infix}_calls_async`, sample: times(calls * servers.length), op: () => get(client.callEach.remote(calls)) },
          {
            name: `n_n_${infix}_calls_async`,
            sample: times(calls * callers),
            op: () => get(Array.from({ length: callers }, () => callInTurn.remote(servers, calls))),
          },
        )
      },
    },
  ]),
  {
    names: ['n_n_actor_calls_with_arg_async'],
    async run() {
      const clients = Array.from({ length: Math.max(1, CPUS >> 1) }, () => remote(Client, { cpus: 0 }).remote([remote(Server, { cpus: 0 }).remote()]))
      await measureTogether({
        name: 'n_n_actor_calls_with_arg_async',
        sample: times(MANY * clients.length),
        op: () => get(clients.map((client) => client.callEachWithRef.remote(MANY))),
      })
    },
  },
  {
    names: ['placement_group_create/removal'],
    async run() {
      const groupsPerCall = 100
      await measureTogether({
        name: 'placement_group_create/removal',
        sample: times(groupsPerCall),
        op: async () => {
          const created = Array.from({ length: groupsPerCall }, () => placementGroup([{ resources: { custom: 0.001 } }]))
          for (const group of created) await group.ready()
          for (const group of created) await group.remove()
        },
      })
    },
  },
]

await using _cluster = await init({ cpus: CPUS, resources: { custom: 100 }, quiet: true })
for (const { names, run } of groups) {
  if (wanted(...names)) await run()
}
