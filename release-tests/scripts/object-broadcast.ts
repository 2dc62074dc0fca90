/**
 * object-broadcast: four nodes ask for the same 256 MiB at the same moment. How long until the last one has it, beside one node alone, and how often its
 * first node sent it: receivers become sources, so it should be about twice, not four times. Warm as in object-transfer. Five nodes share this machine's
 * cores, so the time of all is that of copying the bytes four times; on machines of their own it would be the time of few hops.
 */
import { SMOKE, report } from '../src/measure.ts'
import { BYTES, startReaders } from './object-work.ts'

const READERS = 4
const ROUNDS = SMOKE ? 2 : 8

interface NodeFacts {
  readonly head: boolean
  readonly transfers: { readonly sentBytes: number }
}

await using readers = await startReaders(READERS)
const sent = async (): Promise<number[]> => {
  const nodes = await readers.cluster.head.list<NodeFacts>('nodes')
  return nodes.toSorted((a, b) => Number(b.head) - Number(a.head)).map(({ transfers }) => transfers.sentBytes / BYTES)
}
const seconds: number[] = []
const firstShare: number[] = []
const largestShare: number[] = []
for (let round = -1; round < ROUNDS; round++) {
  const before = await sent()
  const { seconds: all } = await readers.round()
  const shares = (await sent()).map((share, index) => share - before[index]!)
  if (round < 0) continue
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
report('sent_by_first_node', 'times', firstShare)
report('sent_by_any_node_max', 'times', largestShare)
