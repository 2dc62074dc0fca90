/**
 * What the tests of clusters run on their nodes. A module of its own, so that workers import it by its exports.
 */
import { appendFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { remote } from '@beamline/runtime'

/** Custom resource of the node that a test wants something to run on. */
export const MARKED = 'marked'

const here = (): string => process.env['BEAMLINE_TEST_NODE'] ?? ''

/** Index of the node that it runs on. */
export const nodeHere = remote(function nodeHere(): string {
  return here()
})

/** Says in a file where it runs, one line each time it starts, then takes its time. */
export const longTask = remote(
  async function longTask(file: string, name: string, ms: number): Promise<string> {
    appendFileSync(file, `${name} ${here()}\n`)
    await delay(ms)
    return here()
  },
  { maxRetries: -1 },
)

/** Says in a file where it runs, one line each time it starts. */
export class Resident {
  constructor(file: string, name: string) {
    appendFileSync(file, `${name} ${here()}\n`)
  }

  node(): string {
    return here()
  }
}

export class Once {
  call(): string {
    return 'ok'
  }
}
