/** Parts of the runtime that it does not export, out of the same build or sources that the scripts import. */
export async function internal<M>(module: string): Promise<M> {
  const entry = import.meta.resolve('@beamline/runtime')
  return (await import(new URL(`./${module}${entry.endsWith('.ts') ? '.ts' : '.js'}`, entry).href)) as M
}
