/**
 * Labels of nodes and the selectors that ask for them: `v` (equals), `!v`, `in(a,b)`, `!in(a,b)`. A node without the label matches the negated forms.
 */

/** Given by every node, besides its own: its id and the name of its machine. */
export const NODE_LABEL = 'beamline/node'
export const HOST_LABEL = 'beamline/host'
/** Of nodes with GPUs: what kind they are, such as `NVIDIA-H100-80GB-HBM3`. */
export const GPU_LABEL = 'beamline/gpu'

export type Labels = Readonly<Record<string, string>>

interface Selector {
  readonly values: readonly string[]
  readonly negated: boolean
}

const VALUE = /^[\w.:/@+-]+$/

/** Undefined when the text is none of the four forms. */
export function parseSelector(text: string): Selector | undefined {
  const negated = text.startsWith('!')
  const rest = negated ? text.slice(1) : text
  const list = /^in\((.*)\)$/.exec(rest)?.[1]
  const values = list === undefined ? [rest] : list.split(',').map((value) => value.trim())
  return values.every((value) => VALUE.test(value)) ? { values, negated } : undefined
}

/** A selector that cannot be parsed matches nothing: `api/options.ts` refuses it before. */
export function matches(labels: Labels, selectors: Labels): boolean {
  for (const [name, text] of Object.entries(selectors)) {
    const selector = parseSelector(text)
    if (selector === undefined) return false
    const value = Object.hasOwn(labels, name) ? labels[name] : undefined
    if ((value !== undefined && selector.values.includes(value)) === selector.negated) return false
  }
  return true
}

/** `a=v, b=!in(x,y)`, for people. */
export const formatLabels = (selectors: Labels): string =>
  Object.entries(selectors)
    .map(([name, text]) => `${name}=${text}`)
    .join(', ')
