/** The other end of the ping-pong yardstick: a process that sends back what it receives on a unix socket. Ends with its parent. */
import { createServer } from 'node:net'

const [path] = process.argv.slice(2)
createServer((socket) => void socket.pipe(socket)).listen(path, () => process.send?.('ready'))
process.once('disconnect', () => process.exit())
