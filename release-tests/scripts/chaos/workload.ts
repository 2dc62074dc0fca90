/**
 * A program that runs one workload and tells how it went: `workload.ts NAME LOAD`, the load as JSON. It joins the cluster of BEAMLINE_ADDRESS, or has one
 * of its own. Ends with 1 when something was wrong.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { init } from '@beamline/runtime'
import { processReport, tell } from '@beamline/runtime/testing'
import { describeWrong, type Load, SPARED, type WorkloadName, WORKLOADS } from './workloads.ts'

const [name = '', json = '{}'] = process.argv.slice(2)
const load = JSON.parse(json) as Load
const workload = WORKLOADS[name as WorkloadName]
if (workload === undefined) throw new RangeError(`there is no workload "${name}": ${Object.keys(WORKLOADS).join(', ')}`)

const own = process.env['BEAMLINE_ADDRESS'] ? {} : { cpus: 2, resources: { [SPARED]: 1 } }
await using _cluster = await init({ ...own, quiet: true })
writeFileSync(load.marks, '')
tell('started', { process: processReport().process })
const { asked, marked, nestedRetries, wrong } = await workload(load)
const { retries, reconstructions } = processReport()
const again = readFileSync(load.marks).length - marked
tell('outcome', { asked, retries: retries + nestedRetries, reconstructions, again, wrong: describeWrong(wrong) })
if (wrong.length > 0) process.exitCode = 1
