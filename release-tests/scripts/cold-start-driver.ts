/** The smallest program that has something run elsewhere; started by cold-start.ts. */
import { get, init, remote } from '@beamline/runtime'

await using _cluster = await init({ cpus: 2, quiet: true })
console.log(await get(remote(() => 'ok').remote()))
