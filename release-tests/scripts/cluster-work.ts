/**
 * What the tests of clusters run on their nodes. A module of its own, so that workers import it by its exports.
 */
import { appendFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { remote } from '@beamline/runtime'

/** Custom resource of the node that a test wants something to run on. */
export const MARKED = 'marked'

const here = (): string => process.env['BEAMLINE_TEST_NODE'] ?? ''

/** One line: what started, on which node, and when. */
const started = (file: string, name: string): void => appendFileSync(file, `${name} ${here()} ${Date.now()}\n`)

/** Index of the node that it runs on. */
export const nodeHere = remote(function nodeHere(): string {
  return here()
})

/** Says in a file where and when it starts, each time, then takes its time. */
export const longTask = remote(
  async function longTask(file: string, name: string, ms: number): Promise<string> {
    started(file, name)
    await delay(ms)
    return here()
  },
  { maxRetries: -1 },
)

/** Says in a file where and when it starts, each time. */
export class Resident {
  constructor(file: string, name: string) {
    started(file, name)
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
