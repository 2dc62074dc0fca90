/** How a worker ends when its node is gone: with everything that it started and that is in its process group still. */
export function endWithNode(): void {
  process.once('exit', () => {
    try {
      process.kill(-process.pid, 'SIGKILL')
    } catch {
      // It leads no group: somebody started it by hand.
    }
  })
  process.exit(0)
}
