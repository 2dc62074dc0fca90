/**
 * The program of node-death: tasks and actors that stay, spread over the nodes. `node-death-driver.ts FILE TASKS ACTORS MILLISECONDS`
 */
import { get, init, remote } from '@beamline/runtime'
import { longTask, Resident } from './cluster-work.ts'

const [file = '', tasks = '', actors = '', milliseconds = ''] = process.argv.slice(2)

await using _program = await init({ quiet: true })
const RemoteResident = remote(Resident, { cpus: 1, maxRestarts: -1, maxTaskRetries: -1 })
const residents = Array.from({ length: Number(actors) }, (_, index) => RemoteResident.remote(file, `actor-${index}`))
await get(residents.map((resident) => resident.node.remote()))
await get(Array.from({ length: Number(tasks) }, (_, index) => longTask.remote(file, `task-${index}`, Number(milliseconds))))
// The handles keep the actors.
residents.length = 0
