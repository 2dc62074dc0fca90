/**
 * The sentence that says who fills the store: live objects by owner and by what made them, biggest first.
 */
const SHOWN_MAX = 5

/** @param unusedBytes - in segments that processes hold, beside the objects */
export function describeHolders(objects: readonly { readonly owner: string; readonly label: string; readonly bytes: number }[], unusedBytes: number): string {
  const groups = new Map<string, { bytes: number; count: number; owner: string; label: string }>()
  for (const { owner, label, bytes } of objects) {
    const key = `${owner}\0${label}`
    const group = groups.get(key) ?? { bytes: 0, count: 0, owner, label }
    group.bytes += bytes
    group.count++
    groups.set(key, group)
  }
  const sorted = [...groups.values()].sort((a, b) => b.bytes - a.bytes)
  const parts = sorted.slice(0, SHOWN_MAX).map(({ bytes, count, owner, label }) => {
    const objectsText = `${count.toLocaleString('en-US')} object${count === 1 ? '' : 's'}`
    return `${(bytes / 1_048_576).toFixed(1)} MiB in ${objectsText} of ${label ? `"${label}"` : 'an unnamed call'} owned by ${owner}`
  })
  const rest = sorted.slice(SHOWN_MAX)
  if (rest.length > 0) parts.push(`${(rest.reduce((sum, group) => sum + group.bytes, 0) / 1_048_576).toFixed(1)} MiB in ${rest.length} other groups`)
  if (unusedBytes >= 1_048_576) parts.push(`${(unusedBytes / 1_048_576).toFixed(1)} MiB reserved by processes and not in use`)
  return parts.join(', ')
}
