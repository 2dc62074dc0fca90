/**
 * `beamline list TOPIC`: rows of one kind.
 */
import type { Resources, TaskEvent } from '../net/gen/node.ts'
import { formatBytes, formatResources } from '../state/resources.ts'
import { ClusterClient } from './client.ts'
import type { Topic } from './topics.ts'
import { type Column, formatMs, note, print, printJson, table } from './output.ts'

type Row = Readonly<Record<string, never>>
/** Rows are plain JSON of the node; a field that an older node does not send is empty. */
const field = (title: string, name: string, align?: 'right'): Column<Row> => {
  const text = (row: Row): string => String(row[name] ?? '')
  return align === undefined ? { title, text } : { title, text, align }
}
const duration = (row: Row): string => {
  const { startMs, endMs, forMs } = row as unknown as Partial<TaskEvent> & { forMs?: number }
  if (startMs !== undefined && endMs !== undefined) return formatMs(endMs - startMs)
  return forMs === undefined ? '' : formatMs(forMs)
}
/** Of a node that died before the asked one came nothing is known. */
const amounts = (title: string, name: string): Column<Row> => ({ title, text: (row) => (row[name] ? formatResources(row[name] as Resources) : '') })

const COLUMNS: Readonly<Record<Topic, readonly Column<Row>[]>> = {
  tasks: [
    field('TASK', 'task'),
    field('NAME', 'name'),
    field('STATE', 'state'),
    field('WORKER', 'worker'),
    { title: 'TIME', text: duration, align: 'right' },
    field('ERROR', 'errorCode'),
  ],
  actors: [
    field('ACTOR', 'actor'),
    field('CLASS', 'className'),
    field('NAME', 'name'),
    field('STATE', 'state'),
    field('WORKER', 'worker'),
    field('NODE', 'node'),
    field('RESTARTS', 'restarts', 'right'),
    { title: 'WHY', text: (row) => String(row['cause'] || row['waitsFor'] || '') },
  ],
  objects: [
    field('OBJECT', 'object'),
    { title: 'SIZE', text: (row) => formatBytes(Number(row['bytes'])), align: 'right' },
    field('MADE BY', 'label'),
    field('OWNER', 'owner'),
    field('SEGMENT', 'segment'),
  ],
  nodes: [
    field('NODE', 'node'),
    field('HOST', 'host'),
    field('ADDRESS', 'address'),
    { title: 'PID', text: (row) => String(row['pid'] || ''), align: 'right' },
    field('STATE', 'state'),
    { title: 'ROLE', text: (row) => (row['head'] ? 'head' : '') },
    amounts('FREE', 'available'),
    amounts('TOTAL', 'total'),
  ],
  jobs: [
    field('JOB', 'job'),
    field('PROGRAM', 'name'),
    field('NAMESPACE', 'namespace'),
    field('STATE', 'state'),
    field('HOST', 'host'),
    field('PID', 'pid', 'right'),
    { title: 'TIME', text: (row) => formatMs((Number(row['endMs']) || Date.now()) - Number(row['startMs'])), align: 'right' },
    field('WHY', 'reason'),
  ],
  workers: [
    field('WORKER', 'worker'),
    field('NODE', 'node'),
    field('PID', 'pid', 'right'),
    field('STATE', 'state'),
    field('DOING', 'doing'),
    field('LEASES', 'leases', 'right'),
    field('JOB', 'job'),
  ],
  leases: [
    field('LEASE', 'lease', 'right'),
    field('FOR', 'label'),
    field('WORKER', 'worker'),
    field('HOLDER', 'holder'),
    amounts('RESOURCES', 'resources'),
    field('BLOCKED', 'blocked'),
  ],
  groups: [
    field('GROUP', 'group'),
    field('NAME', 'name'),
    field('STRATEGY', 'strategy'),
    field('STATE', 'state'),
    { title: 'WHY', text: (row) => String(row['cause'] || row['waitsFor'] || '') },
  ],
  drivers: [
    field('DRIVER', 'driver'),
    field('PID', 'pid', 'right'),
    field('PROGRAM', 'name'),
    field('NAMESPACE', 'namespace'),
    field('LEASES', 'leases', 'right'),
  ],
}

interface ObjectsOfProcess {
  readonly ownedObjects?: number
}

export async function list(topic: Topic, limit: number, address: string | undefined, json: boolean): Promise<void> {
  await using client = await ClusterClient.connect(address)
  const answer = await client.query<Row[] | { rows: Row[]; processes?: ObjectsOfProcess[]; silent: number }>(topic, limit)
  const rows = Array.isArray(answer) ? answer : answer.rows
  if (json) return printJson(rows)
  print(rows.length === 0 ? `no ${topic}` : table(COLUMNS[topic], rows))
  for (const node of client.silent) note(`node ${node} did not answer; what it knows is missing`)
  if (rows.length >= limit) note(`the first ${limit}; --limit shows more`)
  if (Array.isArray(answer)) return
  if (answer.silent > 0) note(`${answer.silent} busy processes did not answer; what they have in memory is missing`)
  const small = answer.processes?.reduce((sum, process) => sum + (process.ownedObjects ?? 0), 0) ?? 0
  if (topic === 'objects') note(`${small} objects in all; small ones live in the memory of their owners and are not listed`)
}
