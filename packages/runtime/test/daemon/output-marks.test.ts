/** Marks in a worker's output, cut by the pipe in any way. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { OUTPUT_MARK } from '../../src/daemon/bootstrap.ts'
import { OutputMarks } from '../../src/daemon/output-marks.ts'

function read(chunks: readonly Uint8Array[]): { text: string; labels: string[] } {
  const marks = new OutputMarks()
  const text: Buffer[] = []
  const labels: string[] = []
  const onText = (part: Uint8Array): void => void text.push(Buffer.from(part))
  for (const chunk of chunks) marks.take(chunk, onText, (label) => labels.push(`${Buffer.concat(text).length}:${label}`))
  marks.end(onText)
  return { text: Buffer.concat(text).toString(), labels }
}

test('marks are taken out and say where each task begins', () => {
  const output = `a\n${OUTPUT_MARK}first\nb\nhalf ${OUTPUT_MARK}second\nline\n`
  expect(read([Buffer.from(output)])).toEqual({ text: 'a\nb\nhalf line\n', labels: ['2:first', '9:second'] })
})

test('what only looks like a mark is output', () => {
  for (const output of ['\u0001', '\u0001beam me up\n', `${OUTPUT_MARK}${'x'.repeat(5_000)}`, `\u0001${OUTPUT_MARK.slice(0, -1)}\n`]) {
    expect(read([Buffer.from(output)])).toEqual({ text: output, labels: [] })
  }
})

test('however the bytes are cut, the text is whole and the marks are where they were', () => {
  const piece = fc.oneof(
    fc.constantFrom('\n', '\u0001', 'é', 'text', '\u0001beam'),
    fc.constantFrom('one', 'two').map((label) => `${OUTPUT_MARK}${label}\n`),
  )
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 12 }), fc.array(fc.nat(80), { maxLength: 8 }), (pieces, cuts) => {
      const bytes = Buffer.from(pieces.join(''))
      const chunks: Uint8Array[] = []
      let at = 0
      for (const cut of [...cuts.map((c) => Math.min(c, bytes.length)).sort((a, b) => a - b), bytes.length]) {
        chunks.push(bytes.subarray(at, cut))
        at = cut
      }
      expect(read(chunks)).toEqual(read([bytes]))
    }),
  )
})
