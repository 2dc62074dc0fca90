/**
 * Loads parts of Beamline with less work: where an import of one of its files by another leads is clear without a look at the disk. A process loads some two
 * hundred files before its first task, and finding them is a quarter of that work.
 */
import { registerHooks } from 'node:module'

const OWN = new URL('.', import.meta.url).href
const FORMAT = import.meta.url.endsWith('.ts') ? 'module-typescript' : 'module'

export async function loadOwn<T>(load: () => Promise<T>): Promise<T> {
  const hooks = registerHooks({
    resolve(specifier, context, next) {
      if (!specifier.startsWith('.') || context.parentURL?.startsWith(OWN) !== true) return next(specifier, context)
      return { url: new URL(specifier, context.parentURL).href, format: FORMAT, shortCircuit: true }
    },
  })
  try {
    return await load()
  } finally {
    hooks.deregister()
  }
}
