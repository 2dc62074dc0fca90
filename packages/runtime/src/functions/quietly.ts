/** Node warns on the stderr of a program when something uses its experimental parts, which the program never asked for. */
export function quietly<T>(action: () => T): T {
  const { emitWarning } = process
  process.emitWarning = () => undefined
  try {
    return action()
  } finally {
    process.emitWarning = emitWarning
  }
}
