/** What every place that spill files go to keeps, as tests; each file of tests gives it places. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import type { MemoryPart, SpillTarget } from '../../src/spill/target.ts'

export const MiB = 1_048_576

export interface Opened extends AsyncDisposable {
  readonly target: SpillTarget
  /** Names of the files that are there. */
  files(): Promise<string[]>
}

/** A file in the place of a segment, whose bytes tell where they are. */
export function memoryIn(folder: string, name: string, bytes: number): string {
  const path = join(folder, name)
  const data = Buffer.alloc(bytes)
  for (let at = 0; at + 4 <= bytes; at += 4) data.writeUInt32LE((at * 2_654_435_761 + name.length) % 2 ** 32, at)
  writeFileSync(path, data)
  return path
}

export const bytesOf = ({ path, offset, bytes }: MemoryPart): Buffer => readFileSync(path).subarray(offset, offset + bytes)

/** @param folder - for segments of the test that runs */
export function spillContract(folder: () => string, open: () => Promise<Opened>): void {
  const memory = (name: string, bytes: number): string => memoryIn(folder(), name, bytes)

  test('parts of several segments come back one by one, byte for byte', async () => {
    await using opened = await open()
    const { target } = opened
    const a = memory('a', 9 * MiB)
    const b = memory('bb', 1 * MiB)
    const parts = [
      { path: a, offset: 4096, bytes: 8 * MiB + 77 },
      { path: b, offset: 0, bytes: 5 },
      { path: a, offset: 0, bytes: 4096 },
      { path: b, offset: 8192, bytes: 300_000 },
    ]
    await target.write('1', parts)
    await target.write('2', parts.slice(1, 2))
    expect((await opened.files()).sort()).toEqual(['1', '2'])
    const back = memory('back', 10 * MiB)
    let from = 0
    for (const part of parts) {
      const into = { path: back, offset: 12_288, bytes: part.bytes }
      await target.read('1', from, into)
      expect(bytesOf(into).equals(bytesOf(part))).toBe(true)
      from += part.bytes
    }
    await target.remove('1')
    expect(await opened.files()).toEqual(['2'])
    await expect(target.read('1', 0, { path: back, offset: 0, bytes: 5 })).rejects.toThrow()
    await target.close()
    expect(await opened.files()).toEqual([])
  })

  test('a write that fails leaves no file', async () => {
    await using opened = await open()
    const part = { path: memory('short', 4096), offset: 0, bytes: 8192 }
    await expect(opened.target.write('1', [part])).rejects.toThrow()
    expect(await opened.files()).toEqual([])
    await opened.target.close()
  })
}
