/**
 * object-transfer: an object of 256 MiB from one node to another: an actor asks for it and has it, mapped, every byte verified on the way. Beside it the same
 * bytes over a bare socket, in turns. Warm on both sides: the segments that receive it were written before (the first round, which does not count, makes
 * them), as is the memory of the bare copy. Then both with TLS. Both nodes are on this machine and share its cores.
 */
import { SMOKE, report } from '../src/measure.ts'
import { BYTES, startReaders } from './object-work.ts'
import { socketCopy } from './yardsticks/socket-copy.ts'

const ROUNDS = SMOKE ? 3 : 15
const GiB = 2 ** 30

/** Both in turns. @returns GiB/s of each round, the first of which does not count */
async function measure(tls: boolean): Promise<{ readonly first: number; readonly transfers: number[]; readonly copies: number[] }> {
  await using readers = await startReaders(1, tls)
  await using bare = await socketCopy(BYTES, tls)
  const transfers: number[] = []
  const copies: number[] = []
  for (let round = 0; round <= ROUNDS; round++) {
    transfers.push(BYTES / GiB / (await readers.round()).each[0]!)
    copies.push(BYTES / GiB / (await bare.copy()))
  }
  const [first = 0] = transfers
  return { first, transfers: transfers.slice(1), copies: copies.slice(1) }
}

const plain = await measure(false)
report('first_transfer_gib', 'GiB/s', [plain.first])
report('transfer_gib', 'GiB/s', plain.transfers)
report('yardstick_socket_copy_gib', 'GiB/s', plain.copies)
const encrypted = await measure(true)
report('transfer_tls_gib', 'GiB/s', encrypted.transfers)
report('yardstick_tls_copy_gib', 'GiB/s', encrypted.copies)
