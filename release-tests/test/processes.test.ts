/** What the kernel says about processes, on Linux. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { anonymousRssMb, descendants, hasProc, openDescriptors, pssMb } from '../src/processes.ts'

describe.runIf(process.platform === 'linux')('on Linux', () => {
  test('descendants are found down to grandchildren and gone when they ended', async () => {
    const grandchild = `require('child_process').spawn(process.execPath, ['-e', 'console.log(process.pid); process.stdin.resume()'], { stdio: 'inherit' })`
    const child = spawn(process.execPath, ['-e', grandchild], { stdio: ['pipe', 'pipe', 'inherit'] })
    const [output] = (await once(child.stdout.setEncoding('utf8'), 'data')) as [string]
    const found = descendants(process.pid).filter((one) => one.pid === child.pid || one.parent === child.pid)
    expect(found.map(({ pid, parent }) => [pid, parent])).toEqual([
      [child.pid, process.pid],
      [Number(output), child.pid],
    ])
    expect(found[0]?.command).toContain('child_process')
    child.stdin.end()
    await once(child, 'exit')
    expect(descendants(process.pid).some(({ pid }) => pid === child.pid || pid === Number(output))).toBe(false)
  })

  test('memory is counted in MB of a million bytes', () => {
    expect(hasProc()).toBe(true)
    const before = anonymousRssMb(process.pid)
    const held = Buffer.alloc(64_000_000, 1)
    expect(anonymousRssMb(process.pid) - before).toBeGreaterThan(50)
    expect(anonymousRssMb(process.pid) - before).toBeLessThan(90)
    expect(pssMb(process.pid)).toBeGreaterThan(64)
    expect(held[0]).toBe(1)
  })

  test('open descriptors are counted', () => {
    const before = openDescriptors(process.pid)
    const fd = openSync('/dev/null', 'r')
    expect(openDescriptors(process.pid)).toBe(before + 1)
    closeSync(fd)
    expect(openDescriptors(process.pid)).toBe(before)
  })
})
