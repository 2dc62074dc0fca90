/**
 * GPUs of this machine: which may be lent, and what they are called. Quiet where there are none; nothing is run unless the devices exist.
 */
import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

const DEVICES = '/dev'
const DRIVER = '/proc/driver/nvidia/gpus'
const SMI_MS = 5_000

/** As `CUDA_VISIBLE_DEVICES` names them: what it says of this process, else the NVIDIA devices of the machine. */
export function visibleGpus(devices: string = DEVICES): string[] {
  const visible = process.env['CUDA_VISIBLE_DEVICES']
  if (visible === undefined) return devicesIn(devices)
  return visible
    .split(',')
    .map((id) => id.trim())
    .filter((id) => id !== '' && id !== '-1' && id !== 'NoDevFiles')
}

/** The model of the first GPU as a label, such as `NVIDIA-H100-80GB-HBM3`; undefined when there is none or nothing names it. */
export function gpuModel(devices: string = DEVICES, driver: string = DRIVER): string | undefined {
  if (devicesIn(devices).length === 0) return undefined
  const name = modelOfDriver(driver) ?? modelOfSmi()
  return name?.replaceAll(/[^\w.:/@+-]+/g, '-').replaceAll(/^-|-$/g, '')
}

function devicesIn(folder: string): string[] {
  return entries(folder)
    .filter((name) => /^nvidia\d+$/.test(name))
    .map((name) => name.slice('nvidia'.length))
    .sort((a, b) => Number(a) - Number(b))
}

function entries(folder: string): string[] {
  try {
    return readdirSync(folder)
  } catch {
    return []
  }
}

function modelOfDriver(folder: string): string | undefined {
  for (const gpu of entries(folder).sort()) {
    try {
      const model = /^Model:\s*(\S.*)$/m.exec(readFileSync(join(folder, gpu, 'information'), 'utf8'))?.[1]
      if (model !== undefined) return model.trim()
    } catch {
      // In some containers the folder is there and the files are not.
    }
  }
  return undefined
}

function modelOfSmi(): string | undefined {
  const { stdout } = spawnSync('nvidia-smi', ['--query-gpu=name', '--format=csv,noheader'], { encoding: 'utf8', timeout: SMI_MS })
  // Not installed: no output at all.
  return (stdout as string | null)?.split('\n')[0]?.trim() || undefined
}
