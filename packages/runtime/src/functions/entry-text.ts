/**
 * The text of the program's entry file as V8 runs it, read from the disk: the debugger, which knows the text of everything, hashes all that is loaded when it
 * is enabled, and with the compiler that Node loads for TypeScript that takes longer than the start of Node itself.
 *
 * Undefined where it may be another one: the file was changed or removed since this process started, or something was loaded before it that could translate it.
 */
import { readFileSync, statSync } from 'node:fs'
import { stripTypeScriptTypes } from 'node:module'
import { fileURLToPath } from 'node:url'
import { quietly } from './quietly.ts'

/** File systems keep times in steps. */
const CLOCK_STEP_MS = 100
/** Flags of Node that load code which may translate what is loaded after it. */
const TRANSLATORS = /(^|\s)(-r|--require|--import|--loader|--experimental-loader|--experimental-transform-types|--experimental-(default-)?config-file)\b/

/** @param url - of the entry file, a module, as V8 knows it */
export function entryText(url: string): string | undefined {
  if ([...process.execArgv, process.env['NODE_OPTIONS'] ?? ''].some((flags) => TRANSLATORS.test(flags))) return undefined
  const path = fileURLToPath(url)
  try {
    const text = readFileSync(path, 'utf8')
    // A change while it was read is seen, too.
    if (statSync(path).ctimeMs > performance.timeOrigin - CLOCK_STEP_MS) return undefined
    return /\.m?ts$/.test(path) ? quietly(() => stripTypeScriptTypes(text)) : text
  } catch {
    return undefined // it is gone, or is not what Node loads by itself
  }
}
