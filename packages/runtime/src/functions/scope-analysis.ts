/**
 * Which names mean what in one script: scopes, bindings, references and every function's text range, from acorn's tree.
 *
 * Pure: source text in, facts out; it never looks at a running program. A function's free names are the references inside its text
 * whose binding lives outside of it.
 */
import type * as Acorn from 'acorn'
import { createRequire } from 'node:module'
import { ScopeWalker } from './scope-walker.ts'
import type { ScriptAnalysis } from './scopes.ts'

let acorn: typeof Acorn | undefined

/** acorn, loaded when the first function is captured: most workers never capture one. */
function parser(): typeof Acorn {
  return (acorn ??= createRequire(import.meta.url)('acorn') as typeof Acorn)
}

/** Analyse one script as V8 runs it. @throws SyntaxError where acorn cannot read it */
export function analyseScript(source: string, isModule: boolean): ScriptAnalysis {
  const options = { ecmaVersion: 'latest', allowHashBang: true, allowReturnOutsideFunction: true, allowAwaitOutsideFunction: false } as const
  let program: Acorn.Program
  if (isModule) program = parser().parse(source, { ...options, sourceType: 'module', allowAwaitOutsideFunction: true })
  else program = parseScript(source, options)
  return new ScopeWalker(source, isModule).run(program)
}

function parseScript(
  source: string,
  options: { ecmaVersion: 'latest'; allowHashBang: boolean; allowReturnOutsideFunction: boolean; allowAwaitOutsideFunction: boolean },
): Acorn.Program {
  try {
    return parser().parse(source, { ...options, sourceType: 'script', allowSuperOutsideMethod: true })
  } catch (error) {
    // a fragment that only lives inside a wrapper (REPL input, evaluated text with top-level await or import.meta)
    try {
      return parser().parse(source, { ...options, sourceType: 'module', allowAwaitOutsideFunction: true })
    } catch {
      throw error
    }
  }
}
