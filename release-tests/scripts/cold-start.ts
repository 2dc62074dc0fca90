/**
 * cold-start: from starting a program that uses the runtime until its first remote result, beside the start of Node alone. The programs take turns.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import path from 'node:path'
import { SMOKE, report } from '../src/measure.ts'

const STARTS = SMOKE ? 3 : 7

/** Seconds from starting Node until its program prints something; then the program must end well. */
async function secondsToFirstOutput(args: readonly string[], expected: string): Promise<number> {
  const startMs = performance.now()
  const child = spawn(process.execPath, [...process.execArgv, ...args], { stdio: ['ignore', 'pipe', 'inherit'] })
  const exited = once(child, 'exit')
  const [output] = (await once(child.stdout, 'data')) as [Buffer]
  const seconds = (performance.now() - startMs) / 1000
  const [code] = await exited
  if (output.toString() !== expected || code !== 0) throw new Error(`${args.join(' ')} printed ${JSON.stringify(output.toString())} and exited with ${code}`)
  return seconds
}

const driver = path.join(import.meta.dirname, 'cold-start-driver.ts')
const starts = { cold_start_s: [] as number[], yardstick_node_start_s: [] as number[] }
for (let start = 0; start < STARTS; start += 1) {
  starts.yardstick_node_start_s.push(await secondsToFirstOutput(['--eval', "console.log('ok')"], 'ok\n'))
  starts.cold_start_s.push(await secondsToFirstOutput([driver], 'ok\n'))
}
for (const [name, samples] of Object.entries(starts)) report(name, 's', samples)
