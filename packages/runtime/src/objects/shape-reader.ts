/**
 * Compiled readers of plain objects with one list of keys: storing by a constant name is several times faster than by a variable one.
 * Only an acceleration: where programs may not compile code (`--disallow-code-generation-from-strings`), the decoder does without.
 */

/** What a compiled reader needs of the decoder. */
export interface ValueSource {
  readonly objects: unknown[]
  readValue(): unknown
}

export type ShapeReader = (source: ValueSource) => Record<string, unknown>

/** A list of keys is compiled when one value has this many objects of it. */
export const COMPILE_AFTER = 16
const COMPILED_MAX = 1_000

const compiled = new Map<string, ShapeReader>()
let allowed = true

export function shapeReader(keys: readonly string[]): ShapeReader | undefined {
  if (!allowed || keys.includes('__proto__')) return undefined
  const names = keys.map((key) => JSON.stringify(key))
  const id = names.join()
  const known = compiled.get(id)
  if (known) return known
  const fields = names.map((name) => `${name}: undefined`).join()
  const reads = names.map((name) => `object[${name}] = source.readValue()`).join('; ')
  try {
    const make = new Function(`return (source) => { const object = { ${fields} }; source.objects.push(object); ${reads}; return object }`)
    const reader = make() as ShapeReader
    if (compiled.size >= COMPILED_MAX) compiled.clear()
    compiled.set(id, reader)
    return reader
  } catch {
    allowed = false
    return undefined
  }
}
