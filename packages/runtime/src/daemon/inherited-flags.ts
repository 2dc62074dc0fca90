/**
 * Which of a program's Node flags its workers get: loaders, conditions, heap limits. Not those that say what to run, or that only one
 * process can have: with `-e` a worker would be the program again, with `--inspect` it would want the same port. Pure.
 */

const OWN = /^(-e|--eval|-p|--print|-pe|-c|--check|-i|--interactive|--run|--input-type|--inspect.*|--debug-port|--watch.*|--test.*|--build-snapshot.*)$/

/** Those of {@link OWN} whose value is the next argument, unless it follows a `=`. */
const WITH_VALUE =
  /^(-e|--eval|-p|--print|-pe|--run|--input-type|--debug-port|--inspect-port|--inspect-publish-uid|--watch-path|--test-(?!only|force-exit|update).+)$/

/** @param execArgv - `process.execArgv` of the program */
export function inheritedFlags(execArgv: readonly string[]): string[] {
  const kept: string[] = []
  for (let at = 0; at < execArgv.length; at++) {
    const flag = execArgv[at] as string
    const name = flag.replace(/=.*$/s, '')
    if (!OWN.test(name)) kept.push(flag)
    else if (name === flag && WITH_VALUE.test(name) && !execArgv[at + 1]?.startsWith('-')) at++
  }
  return kept
}
