/**
 * A captured function's text as a script that evaluates to a factory. Pure text.
 *
 *     (function (a, b) { "use strict"; return [ <text>, function ($v) { a = $v[0]; b = $v[1] } ] })
 *
 * The captured names are the factory's parameters, in the mode (strict or sloppy) that the function was written in; the second
 * element fills them later, which is how functions that capture each other come to exist. Never `with`: it would change meaning.
 */
import { type FunctionSite, RESERVED, type Reference } from './scopes.ts'

export interface Emission {
  readonly source: string
  /** where the text begins in it */
  readonly textAt: number
  readonly member: { readonly key: string; readonly slot: 'value' | 'get' | 'set' } | undefined
}

export interface LiveImport {
  readonly reference: Reference
  /** name of the captured module namespace */
  readonly namespace: string
  readonly exported: string
}

/**
 * @param name - the function's own `name`
 * @param names - the factory's parameters
 * @param liveImports - references to spell as `namespace.exported`, so that they stay live bindings
 * @param parent - the text to put in place of a class's computed heritage
 * @param ownNameIsCaptured - a declaration whose name means something else by now: written without it
 */
export function emitFunction(
  source: string,
  site: FunctionSite,
  name: string,
  names: readonly string[],
  liveImports: readonly LiveImport[],
  ownNameIsCaptured: boolean,
  parent: { readonly start: number; readonly end: number; readonly text: string } | undefined,
): Emission {
  const [setterParameter, identity] = [unusedName(`${RESERVED}Values`, source, site), unusedName(`${RESERVED}Call`, source, site)]
  const edits = liveImports.map(({ reference, namespace, exported }) => ({
    start: reference.start,
    end: reference.end,
    text: spell(
      reference,
      `${namespace}${/^[\p{ID_Start}$_][\p{ID_Continue}$]*$/u.test(exported) ? `.${exported}` : `[${JSON.stringify(exported)}]`}`,
      identity,
    ),
  }))
  if (parent) edits.push(parent)
  const { id } = site.node
  if (ownNameIsCaptured && id) edits.push({ start: id.start, end: id.end, text: '' })
  let key = site.key?.name ?? ''
  if (site.key?.computed) {
    key = name
    edits.push({ start: source.lastIndexOf('[', site.key.start - 1), end: site.key.end, text: `[${JSON.stringify(name)}]` })
  }
  const text = applyEdits(source, site.start, site.end, edits)
  const mode = site.outerScope.strict ? '"use strict";' : ''
  const helper = liveImports.some(({ reference }) => reference.position === 'call') ? `const ${identity}=v=>v;` : ''
  const head = `(function(${names.join(',')}){${mode}${helper}return[`
  const setter = names.length > 0 ? `,function(${setterParameter}){${names.map((n, i) => `${n}=${setterParameter}[${i}]`).join(';')}}` : ''
  if (site.key) {
    const slot = site.form === 'getter' ? 'get' : site.form === 'setter' ? 'set' : 'value'
    return { source: `${head}{${text}\n}${setter}]})`, textAt: head.length + 1, member: { key, slot } }
  }
  const isAnonymous = !id || ownNameIsCaptured
  if (isAnonymous && name !== '') {
    const literal = JSON.stringify(name)
    return { source: `${head}({[${literal}]:${text}\n})[${literal}]${setter}]})`, textAt: head.length + literal.length + 5, member: undefined }
  }
  return { source: `${head}(${text}\n)${setter}]})`, textAt: head.length + 1, member: undefined }
}

/** A name that the function's text does not contain. */
export function unusedName(base: string, source: string, site: FunctionSite): string {
  const text = source.slice(site.start, site.end)
  let name = base
  while (text.includes(name)) name += '_'
  return name
}

function spell(reference: Reference, replacement: string, identity: string): string {
  if (reference.position === 'shorthand') return `${reference.name}:${replacement}`
  // `ns.f()` would pass `ns` as `this`; a leading parenthesis would join a line before it that has no semicolon
  return reference.position === 'call' ? `${identity}(${replacement})` : replacement
}

function applyEdits(source: string, start: number, end: number, edits: { start: number; end: number; text: string }[]): string {
  let text = ''
  let at = start
  for (const edit of edits.sort((a, b) => a.start - b.start)) {
    text += source.slice(at, edit.start) + edit.text
    at = edit.end
  }
  return text + source.slice(at, end)
}
