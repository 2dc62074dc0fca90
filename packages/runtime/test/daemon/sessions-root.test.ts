/** The folder that a user's sessions and compiled code are in: in a folder where everybody may write. */
import { chmodSync, lchownSync, mkdirSync, statSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { claimSessionsRoot, sessionsRoot } from '../../src/daemon/session.ts'
import { folder } from '../packages/folder.ts'

const OTHER_USER = 65_534
let shared: string

beforeEach(() => {
  shared = folder()
  vi.stubEnv('BEAMLINE_TMPDIR', shared)
})
afterEach(() => void vi.unstubAllEnvs())

test('is made for its user alone, and one that others could read is closed to them', () => {
  claimSessionsRoot()
  chmodSync(sessionsRoot(), 0o755)
  claimSessionsRoot()
  expect(statSync(sessionsRoot()).mode & 0o777).toBe(0o700)
})

test('is not used when others may have written to it', () => {
  mkdirSync(sessionsRoot())
  chmodSync(sessionsRoot(), 0o777)
  expect(claimSessionsRoot).toThrow('other users may write to it (mode 777)')
})

test.runIf(process.getuid?.() === 0)('is not a link that somebody else made to a folder of the user', () => {
  const own = join(shared, 'own')
  mkdirSync(own, { mode: 0o755 })
  symlinkSync(own, sessionsRoot())
  claimSessionsRoot()
  chmodSync(own, 0o755)
  lchownSync(sessionsRoot(), OTHER_USER, OTHER_USER)
  expect(claimSessionsRoot).toThrow(`it belongs to user ${OTHER_USER}`)
  expect(statSync(own).mode & 0o777).toBe(0o755)
})
