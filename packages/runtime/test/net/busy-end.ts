/** The accepting end of a link in a process of its own, which is busy for so many milliseconds after the first message. */
import { listen } from '../../src/net/listen.ts'

const busyMs = Number(process.argv[2])
const server = await listen('127.0.0.1:0', 'secret', {
  peer: (link) => {
    let first = true
    link.onMessage((message) => {
      if (first) for (const until = performance.now() + busyMs; performance.now() < until; );
      first = false
      link.send(message)
    })
    link.onClose(() => process.exit(0))
  },
})
process.stdout.write(`${server.addresses[0]}\n`)
