/**
 * A task that yields: each item is here as soon as it is made, long before the task ends. Leaving the loop stops the producer.
 */
import { get, init, remote } from '@beamline/runtime'

const primes = remote(async function* (): AsyncGenerator<number> {
  const found: number[] = []
  for (let candidate = 2; ; candidate++) {
    if (found.some((prime) => candidate % prime === 0)) continue
    found.push(candidate)
    yield candidate
  }
})

await using _cluster = await init()

const first: number[] = []
for await (const ref of primes.remote()) {
  first.push(await get(ref))
  if (first.length === 10) break
}
console.log(`the first primes: ${first.join(' ')}`)
