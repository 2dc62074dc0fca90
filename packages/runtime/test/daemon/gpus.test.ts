/** Which GPUs a machine has, from folders like those of a machine with GPUs. */
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { gpuModel, visibleGpus } from '../../src/daemon/gpus.ts'

let dir = ''
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'beamline-gpus-'))
  vi.stubEnv('CUDA_VISIBLE_DEVICES', undefined)
})
afterEach(() => {
  vi.unstubAllEnvs()
  rmSync(dir, { recursive: true })
})

const withDevices = (...names: string[]): string => {
  for (const name of names) writeFileSync(join(dir, name), '')
  return dir
}

/** A program of that name that prints one line, found before any other. */
function withSmi(line: string): void {
  const bin = join(dir, 'bin')
  mkdirSync(bin)
  writeFileSync(join(bin, 'nvidia-smi'), `#!/bin/sh\necho "${line}"\n`)
  chmodSync(join(bin, 'nvidia-smi'), 0o755)
  vi.stubEnv('PATH', `${bin}:${process.env['PATH']}`)
}

test('devices are counted by their number, and nothing else that the driver puts there', () => {
  expect(visibleGpus(withDevices('nvidia10', 'nvidia2', 'nvidiactl', 'nvidia-uvm', 'null'))).toEqual(['2', '10'])
  expect(visibleGpus(join(dir, 'nowhere'))).toEqual([])
})

test.each([
  ['1,0', ['1', '0']],
  ['GPU-8932f937, ', ['GPU-8932f937']],
  ['-1', []],
  ['', []],
])('CUDA_VISIBLE_DEVICES=%s says which', (value, expected) => {
  vi.stubEnv('CUDA_VISIBLE_DEVICES', value)
  expect(visibleGpus(withDevices('nvidia0'))).toEqual(expected)
})

test('the model is what the driver says, as a label can say it', () => {
  const gpu = join(dir, 'gpus', '0000:65:00.0')
  mkdirSync(gpu, { recursive: true })
  writeFileSync(join(gpu, 'information'), 'Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   	 0\n')
  expect(gpuModel(withDevices('nvidia0'), join(dir, 'gpus'))).toBe('NVIDIA-H100-80GB-HBM3')
})

test('where the driver says nothing, nvidia-smi is asked; without devices it is not', () => {
  withSmi('NVIDIA GeForce RTX 4090')
  expect(gpuModel(dir, dir)).toBeUndefined()
  expect(gpuModel(withDevices('nvidia0'), join(dir, 'nowhere'))).toBe('NVIDIA-GeForce-RTX-4090')
})

test('without nvidia-smi the model is unknown', () => {
  vi.stubEnv('PATH', dir)
  expect(gpuModel(withDevices('nvidia0'), join(dir, 'nowhere'))).toBeUndefined()
})
