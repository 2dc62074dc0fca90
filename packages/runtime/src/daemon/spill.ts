/**
 * Where this node writes objects when its memory runs short, by its options. The default is a folder of the session, on the disk of the temporary folder.
 */
import { statfsSync } from 'node:fs'
import { SpillIo } from '../spill/spill-io.ts'
import type { SpillTarget } from '../spill/target.ts'
import type { DaemonConfig } from './options.ts'
import { isProcess, startTime } from './session.ts'

/** Type of a file system in memory, where nothing would be won. */
const TMPFS = 0x01021994
const ON_DISK = '/var/tmp'

export function openSpill({ session, spill }: DaemonConfig): SpillIo | undefined {
  if (spill === false) return undefined
  const { directories, quotaBytes, s3 } = spill
  if (s3) {
    return new SpillIo(async () => {
      const { S3Target } = await import('../spill/s3-target.ts')
      return new S3Target(s3, session.node)
    })
  }
  const open = async (): Promise<SpillTarget> => {
    const { DirectoryTarget } = await import('../spill/directory-target.ts')
    return new DirectoryTarget({
      directories: directories ?? [statfsSync(session.dir).type === TMPFS ? ON_DISK : session.dir],
      quotaBytes,
      name: session.node,
      holder: { pid: process.pid, started: startTime(process.pid) },
      isAlive: ({ pid, started }) => isProcess(pid, started),
    })
  }
  return new SpillIo(open)
}
