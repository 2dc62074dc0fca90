/** A program that embeds a daemon, prints what it got, and waits to be killed. */
import { startTestDaemon } from './stand-in.ts'

const { address, token, sessionDir, storeDir, pid } = await startTestDaemon()
process.stdout.write(`${JSON.stringify({ address, token, sessionDir, storeDir, pid })}\n`)
setInterval(() => {}, 1_000)
