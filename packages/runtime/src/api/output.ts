/**
 * What the driver prints of its cluster: output of workers with a prefix, and warnings. Colours on a terminal only.
 */
import type { LogLines } from '../net/gen/node.ts'

const COLOURS = [36, 35, 33, 34, 32]

function paint(text: string, seed: number, stream: NodeJS.WriteStream): string {
  return stream.isTTY && !process.env['NO_COLOR'] ? `\u001b[${COLOURS[seed % COLOURS.length]}m${text}\u001b[0m` : text
}

/** `(task pid=123) line` */
export function printLogLines({ source, pid, stream, lines }: LogLines): void {
  const target = stream === 'err' ? process.stderr : process.stdout
  const prefix = paint(`(${source || 'worker'} pid=${pid})`, pid, target)
  target.write(lines.map((line) => `${prefix} ${line}\n`).join(''))
}

export function printWarning(text: string): void {
  process.stderr.write(`beamline: ${text}\n`)
}
