/** A link to a process that is busy in one call for longer than a network may be silent. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { expect, test } from 'vitest'
import { dial } from '../../src/net/dial.ts'
import { PEER_SERVICE } from '../../src/net/link.ts'

test('a process that is busy for 8 s is not taken for one whose network broke, and all messages arrive once', async () => {
  const child = spawn(process.execPath, [new URL('busy-end.ts', import.meta.url).pathname, '8000'], { stdio: ['ignore', 'pipe', 'inherit'] })
  const exited = once(child, 'exit')
  const [line] = (await once(child.stdout, 'data')) as [Buffer]
  const link = dial(PEER_SERVICE, line.toString().trim(), 'secret')
  const interruptions: string[] = []
  link.onInterrupted((error) => interruptions.push(error.message))
  const numbers: number[] = []
  const all = new Promise<void>((resolve) => {
    link.onMessage(({ body }) => {
      if (body?.$case === 'resultReceived' && numbers.push(body.value.task) === 100) resolve()
    })
  })
  for (let task = 0; task < 100; task++) {
    link.send({ body: { $case: 'resultReceived', value: { task } } })
    await new Promise((resolve) => setTimeout(resolve, 1))
  }
  await all
  expect(numbers).toEqual(Array.from({ length: 100 }, (_, i) => i))
  expect(interruptions).toEqual([])
  link.close()
  expect(await exited).toEqual([0, null])
}, 30_000)
