/**
 * Code of a program that lies in another folder on this machine: unpacked there by the node daemon.
 *
 * In payloads, code is named as on the machine of the program, whoever made them; so a function has one hash everywhere. What is read here is
 * translated to where the code is here, and back when it is sent on. Beamline's own files are never those of the copy: a second copy of the runtime in
 * one process would not know its cluster.
 */
import { registerHooks } from 'node:module'
import { fileURLToPath, pathToFileURL } from 'node:url'
import type { Node } from './payload.ts'

/** Folder of Beamline's files. */
const OWN = fileURLToPath(new URL('..', import.meta.url))

let moved: { readonly there: string; readonly here: string } | undefined

/**
 * In a worker, before it loads any function. Packages are looked for beside the unpacked code, then where they are on the machine of the program, in
 * case they are installed at the same place here; Beamline's own are those of this worker.
 *
 * @param there - the code root on the machine of the program
 * @param here - its copy
 */
export function setCodeRoot(there: string, here: string): void {
  if (there === here) return
  moved = { there, here }
  registerHooks({
    resolve(specifier, context, next) {
      const parent = context.parentURL ?? ''
      if (isPath(specifier) || specifier.startsWith('node:') || hereOf(parent) === undefined) return next(specifier, context)
      if (specifier === '@beamline/runtime' || specifier.startsWith('@beamline/runtime/')) return next(specifier, { ...context, parentURL: import.meta.url })
      try {
        return next(specifier, context)
      } catch (error) {
        try {
          return next(specifier, { ...context, parentURL: named(parent) })
        } catch {
          throw error
        }
      }
    },
  })
}

const isPath = (specifier: string): boolean => /^(\.{0,2}\/|file:)/.test(specifier)

/** A path or URL of code, as it is called on the machine of the program. */
export function named(place: string): string {
  return moved === undefined ? place : translate(place, moved.here, moved.there)
}

/** The same on this machine. */
export function placed(place: string): string {
  return moved === undefined ? place : translate(place, moved.there, moved.here)
}

function translate(place: string, from: string, to: string): string {
  if (place.startsWith('file:')) {
    const path = withoutQuery(place)
    const query = place.slice(path.length)
    const file = fileURLToPath(path)
    const moved = translate(file, from, to)
    return moved === file ? place : pathToFileURL(moved).href + query
  }
  if (place.startsWith(OWN)) return place
  return place === from || place.startsWith(`${from}/`) ? to + place.slice(from.length) : place
}

const withoutQuery = (url: string): string => url.replace(/[?#].*$/, '')

function hereOf(url: string): string | undefined {
  return named(url) === url ? undefined : url
}

/** Nodes of a payload with every place in them translated. */
export function relocate(nodes: readonly Node[], translation: (place: string) => string): readonly Node[] {
  if (moved === undefined) return nodes
  return nodes.map((node): Node => {
    switch (node.kind) {
      case 'import':
        return { ...node, specifier: translation(node.specifier), parent: translation(node.parent) }
      case 'commonjs':
        return { ...node, file: translation(node.file) }
      case 'require':
        return { ...node, parent: translation(node.parent) }
      case 'function':
        return { ...node, url: translation(node.url) }
      default:
        return node
    }
  })
}
