/**
 * A worker made of a link only. It attaches, and does what a test orders through the environment of a shape (BEAMLINE_TEST_DO)
 * or the creation bytes of an actor: `exit N`, `abort`, `throw TEXT`, `print TEXT` (repeatedly with `xN`), `hang`, `spin`, `env NAME`, `child`.
 */
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { WORKER_BOOTSTRAP_ENV, type WorkerBootstrap } from '../../src/daemon/bootstrap.ts'
import type { ProcessMessage } from '../../src/net/gen/node.ts'
import { dial } from '../../src/net/dial.ts'
import { NODE_SERVICE } from '../../src/net/link.ts'

for (const stream of [process.stdout, process.stderr]) (stream as unknown as { _handle?: { setBlocking(on: boolean): void } })._handle?.setBlocking(true)
const boot = JSON.parse(process.env[WORKER_BOOTSTRAP_ENV] ?? '') as WorkerBootstrap
const failing = process.env['BEAMLINE_TEST_START_FAILS'] ?? ''
if (failing !== '') {
  process.stderr.write(`${failing}\n`)
  process.exit(7)
}
const input = createInterface(process.stdin)
input.once('close', () => process.exit(0))
await new Promise((resolve) => input.once('line', resolve))

const link = dial(NODE_SERVICE, boot.address, boot.token)
const send = (body: NonNullable<ProcessMessage['body']>): void => link.send({ body })

function act(order: string): string {
  const [verb, ...rest] = order.split(' ')
  const text = rest.join(' ')
  if (verb === 'exit') process.exit(Number(text))
  if (verb === 'abort') process.abort()
  if (verb === 'throw') throw new Error(text)
  if (verb === 'print') console.log(text)
  if (verb === 'flood') for (let i = 0; i < Number(text); i++) console.log(`line ${i}`)
  if (verb === 'repeat') for (let i = 0; i < Number(text); i++) console.log('again')
  if (verb === 'complain') console.error(text)
  if (verb === 'spin') for (;;);
  if (verb === 'child') {
    const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'], { stdio: 'ignore' })
    console.log(`child ${child.pid}`)
  }
  if (verb === 'env') console.log(`${text}=${process.env[text] ?? ''}`)
  return verb === 'hang' ? 'hang' : ''
}

let ignoring = false
link.onMessage(({ body }) => {
  if (body?.$case === 'assign') {
    Object.assign(process.env, body.value.env)
    for (const order of (body.value.env['BEAMLINE_TEST_DO'] ?? '').split(';')) act(order)
  } else if (body?.$case === 'actorStart') {
    const { actor, creation } = body.value
    let error = ''
    try {
      for (const order of Buffer.from(creation).toString().split(';')) if (act(order) === 'hang') ignoring = true
    } catch (thrown) {
      error = (thrown as Error).message
    }
    send({ $case: 'actorStarted', value: { actor, error: Buffer.from(error), errorText: error } })
  } else if ((body?.$case === 'exit' || body?.$case === 'actorTerminate') && !ignoring) {
    link.close()
    process.exit(0)
  } else if (body?.$case === 'query') {
    const report = { process: boot.process, tasks: [], ownedObjects: Number(process.env['BEAMLINE_TEST_OWNS'] ?? 0), borrowedObjects: 0 }
    send({ $case: 'queryReply', value: { request: body.value.request, json: JSON.stringify(report), silent: [] } })
  }
})
link.onClose(() => process.exit(0))
send({
  $case: 'hello',
  value: { process: boot.process, kind: 'worker', pid: process.pid, address: `unix:${boot.sessionDir}/${boot.process}.sock`, job: undefined, attach: 1 },
})
