/**
 * Every bound and time limit of the runtime, with its unit. Nothing here is read from the environment.
 */
export const LIMITS = {
  /** Values up to this size travel in messages; larger ones live in shared memory. */
  inlineBytesMax: 102_400,
  /** Values this small are decoded on arrival: a primitive takes less memory than its bytes. */
  tinyBytesMax: 32,
  /** A worker that runs synchronous tasks back to back turns to its messages at least this often. */
  executorSliceMs: 5,
  /** Work that is pushed ahead to a worker: this long, by the measured time of such tasks… */
  pushAheadMs: 5,
  /** …and at most so many tasks. */
  pushAheadTasksMax: 512,
  /** An owner keeps an idle lease so long, unless the node asks for it. */
  leaseLingerMs: 500,
  /** Leases that one process asks for at a time, per shape; each grant asks for the next one. */
  leaseDemandMax: 1_024,
  /** Up to so many, the exact number is asked for. Above, a power of two: so that a long queue does not ask anew for each task that ends. */
  leaseDemandExact: 64,
  /** Queues of one process for tasks of different shapes; beyond, tasks do not have queues per node that holds their arguments. */
  taskQueuesMax: 256,
  /** A wait shorter than this does not lend the waiting task's CPU. */
  blockNoticeMs: 1,
  /** A closed link to a worker waits so long for the node's word on what happened. */
  lossNoticeMs: 2_000,
  /** Longest time of a timer: a longer one would fire at once. */
  timerMsMax: 2_147_483_647,
  /** Back-off of retries: doubles from the first to the second. */
  retryDelayMs: 100,
  retryDelayMaxMs: 5_000,
  /** After one whose worker was ended because its node was short of memory: others must end first. */
  memoryRetryDelayMs: 1_000,
  memoryRetryDelayMaxMs: 30_000,
  /** From this part of the memory on, workers are ended. */
  memoryThreshold: 0.95,
  /** A worker with less of its own is spared… */
  memorySmallBytes: 67_108_864,
  /** …unless all workers have this part of the memory. */
  memoryAllTogether: 0.25,
  /** An ended worker is waited for so long before the next one. */
  memoryGoneMs: 3_000,
  /** Default of `maxRetries`: system failures after which a task is run again. */
  retriesMax: 3,
  /** A task that passed its time limit may finish its current turn so long before its worker is killed. */
  cancelGraceMs: 1_000,
  /** Default of stream items that a producer may be ahead of its consumer. */
  streamItemsAhead: 16,
  /** Calls that an actor with async methods runs at once, unless told otherwise. */
  asyncActorConcurrency: 1_000,
  /** An actor that is asked to stop may finish what it runs. */
  actorStopMs: 30_000,
  /** Finished task attempts that a worker holds for the next report. */
  taskEventsHeldMax: 10_000,
  taskEventsIntervalMs: 1_000,
  /** Finished calls that are kept to bring lost results back: bytes of their arguments and bookkeeping in one process. */
  lineageBytesMax: 268_435_456,
  /** A `get` whose time is over still waits so long for bytes that are on this machine. */
  mapGraceMs: 1_000,
  /** References that one `wait` takes. */
  refsPerWaitMax: 1_000_000,
  /** A shipped function larger than this is refused. */
  functionBytesMax: 104_857_600,
  /** Functions that came inside values and are kept for when they come again. */
  functionsKeptMax: 1_000,
  /** Files of a program's code that travel to other machines, before compression. */
  packageBytesMax: 268_435_456,
  /** Parts in which packed code travels and is stored: small enough that the heartbeats behind them are not late on a poor network. */
  packageChunkBytes: 131_072,
  /** Packed code that the head keeps in its control store… */
  packageStoreBytes: 4_294_967_296,
  /** …or in memory, when it has none… */
  packageMemoryBytes: 536_870_912,
  /** …or in a bucket or folder outside of it. */
  packagePlaceBytes: 68_719_476_736,
  /** Unpacked code that a node keeps for jobs to come. */
  packageCacheBytes: 4_294_967_296,
  /** A program whose daemon was killed looks so long for another one. */
  reconnectMs: 60_000,
  /** How long `init` waits for the daemon. */
  startMs: 20_000,
  /** How long a stop in order may take before what is left is killed. */
  shutdownMs: 4_000,
} as const
