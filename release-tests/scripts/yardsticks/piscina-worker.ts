/** What the piscina yardstick runs in its threads. */
export default function ok(): string {
  return 'ok'
}
