/**
 * object-transfer: an object of 256 MiB from one node to another: an actor asks for it and has it, mapped, every byte verified on the way. Beside it the same
 * bytes over a bare socket, in turns. Warm on both sides: the segments that receive it were written before (the first round, which does not count, makes
 * them), as is the memory of the bare copy. Both nodes are on this machine and share its cores.
 */
import { SMOKE, report } from '../src/measure.ts'
import { BYTES, startReaders } from './object-work.ts'
import { socketCopy } from './yardsticks/socket-copy.ts'

const ROUNDS = SMOKE ? 3 : 15
const GiB = 2 ** 30

await using readers = await startReaders(1)
await using bare = await socketCopy(BYTES)
const transfers: number[] = []
const copies: number[] = []
for (let round = -1; round < ROUNDS; round++) {
  const seconds = (await readers.round()).each[0]!
  const copySeconds = await bare.copy()
  if (round < 0) {
    report('first_transfer_gib', 'GiB/s', [BYTES / GiB / seconds])
    continue
  }
  transfers.push(BYTES / GiB / seconds)
  copies.push(BYTES / GiB / copySeconds)
}
report('transfer_gib', 'GiB/s', transfers)
report('yardstick_socket_copy_gib', 'GiB/s', copies)
