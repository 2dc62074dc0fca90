/**
 * object-broadcast: four nodes ask for the same 256 MiB at the same moment. How long until the last one has it, and how often its
 * first node sent it: receivers become sources, so it should be about twice, not four times. Warm as in object-transfer. Five nodes share this machine's
 * cores, so the time of all is that of copying the bytes four times, beside a bare socket that copies them once; on machines of their own it would be the
 * time of few hops.
 */
import { SMOKE, report } from '../src/measure.ts'
import { BYTES, startReaders } from './object-work.ts'
import { socketCopy } from './yardsticks/socket-copy.ts'

const READERS = 4
const ROUNDS = SMOKE ? 2 : 8

interface NodeFacts {
  readonly head: boolean
  readonly transfers: { readonly sentBytes: number }
}

await using readers = await startReaders(READERS)
await using bare = await socketCopy(BYTES)
const sent = async (): Promise<number[]> => {
  const nodes = await readers.cluster.head.list<NodeFacts>('nodes')
  return nodes.toSorted((a, b) => Number(b.head) - Number(a.head)).map(({ transfers }) => transfers.sentBytes / BYTES)
}
const seconds: number[] = []
const copies: number[] = []
const firstShare: number[] = []
const largestShare: number[] = []
for (let round = -1; round < ROUNDS; round++) {
  const before = await sent()
  const { seconds: all } = await readers.round()
  const shares = (await sent()).map((share, index) => share - before[index]!)
  const copySeconds = await bare.copy()
  if (round < 0) continue
  copies.push(BYTES / 2 ** 30 / copySeconds)
  seconds.push(all)
  firstShare.push(shares[0]!)
  largestShare.push(Math.max(...shares))
}
report('broadcast_s', 's', seconds)
report(
  'broadcast_total_gib',
  'GiB/s',
  seconds.map((all) => (READERS * BYTES) / 2 ** 30 / all),
)
report('yardstick_socket_copy_gib', 'GiB/s', copies)
report('sent_by_first_node', 'times', firstShare)
report('sent_by_any_node_max', 'times', largestShare)
