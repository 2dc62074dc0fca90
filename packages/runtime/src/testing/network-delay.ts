/**
 * A program that holds packets back for a time: what a host sends into the TUN device that it opens comes out of it again, in order, so many
 * milliseconds later. Runs inside the network namespace of the host. Lines on stdin change the time; the end of stdin ends it.
 *
 *     node network-delay.ts DEVICE MILLISECONDS
 */
import { constants, openSync, read, writeSync } from 'node:fs'
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'

const [device = '', milliseconds = '0'] = process.argv.slice(2)
/** Of <linux/if_tun.h>: TUNSETIFF = _IOW('T', 202, int), IFF_TUN, IFF_NO_PI (packets without a header in front). */
const TUNSETIFF = 0x4004_54ca
const IFF_TUN_NO_PI = 0x1001
const PACKET_MAX = 65_536
/** Timers are exact to a millisecond: what is due within half of one goes out now. */
const EARLY_MS = 0.5

let delayMs = Number(milliseconds)
createInterface({ input: process.stdin })
  .on('line', (line) => (delayMs = Number(line)))
  .on('close', () => process.exit())

const koffi = createRequire(import.meta.url)('koffi') as typeof import('koffi')
const ioctl = koffi.load(null).func('int ioctl(int, unsigned long, void *)') as unknown as (fd: number, request: number, argument: Buffer) => number

const tun = openSync('/dev/net/tun', constants.O_RDWR)
const request = Buffer.alloc(40)
request.write(device)
request.writeUInt16LE(IFF_TUN_NO_PI, 16)
if (ioctl(tun, TUNSETIFF, request) < 0) throw new Error(`the device ${device} cannot be opened`)

const held: { readonly dueMs: number; readonly packet: Buffer }[] = []

function release(): void {
  for (;;) {
    const next = held[0]
    if (next === undefined) return
    const waitMs = next.dueMs - performance.now()
    if (waitMs > EARLY_MS) return void setTimeout(release, waitMs)
    held.shift()
    try {
      writeSync(tun, next.packet)
    } catch {
      // The device is going down: packets may be lost.
    }
  }
}

const buffer = Buffer.allocUnsafe(PACKET_MAX)

function receive(): void {
  read(tun, buffer, 0, PACKET_MAX, null, (error, bytes) => {
    if (error) return process.exit(1)
    held.push({ dueMs: performance.now() + delayMs, packet: Buffer.from(buffer.subarray(0, bytes)) })
    if (held.length === 1) release()
    receive()
  })
}

receive()
process.stdout.write('ready\n')
