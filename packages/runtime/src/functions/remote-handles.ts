/**
 * What `remote()` returns, as part of what a function captures: it travels as the function or class that it was made of and its
 * options, and is made anew. Which `remote` that is, the API says.
 */

/** `handle[REMOTE]` is what the handle was made of. */
export const REMOTE: unique symbol = Symbol.for('beamline.remote')

export interface RemoteParts {
  readonly target: Function
  readonly options: Readonly<Record<string, unknown>>
}

let make: (target: Function, options: object) => object

export function setRemote(remote: (target: Function, options: object) => object): void {
  make = remote
}

export function makeRemote(target: Function, options: object): object {
  return make(target, options)
}

export function remoteParts(value: object): RemoteParts | undefined {
  return (value as { [REMOTE]?: RemoteParts })[REMOTE]
}
