/**
 * Orders and reports between head and nodes: as messages of the mesh, and as the pure state has them. What no message can be is `undefined`.
 */
import type { ClusterView, Order, Report } from '../net/gen/mesh.ts'
import type { NodeOrder, NodeReport, View } from '../state/events.ts'

export function encodeOrder(order: NodeOrder): Order {
  switch (order.kind) {
    case 'actor-place': {
      const { actor, attempt, job, shape, label } = order
      return { order: { $case: 'actorPlace', value: { actor, attempt, job: job.id, config: job.config, shape, label } } }
    }
    case 'actor-release': {
      const { actor, attempt, force, reason } = order
      return { order: { $case: 'actorRelease', value: { actor, attempt, force, reason } } }
    }
    case 'bundles-prepare': {
      const { group, attempt, bundles } = order
      return { order: { $case: 'bundlesPrepare', value: { group, attempt, bundles: Object.fromEntries(bundles) } } }
    }
    case 'bundles-commit': {
      const { group, attempt } = order
      return { order: { $case: 'bundlesCommit', value: { group, attempt } } }
    }
    case 'bundles-return': {
      const { group, bundles, reason } = order
      return { order: { $case: 'bundlesReturn', value: { group, bundles: [...bundles], reason } } }
    }
  }
}

export function decodeOrder({ order }: Order): NodeOrder | undefined {
  switch (order?.$case) {
    case 'actorPlace': {
      const { actor, attempt, job, config, shape, label } = order.value
      return config === undefined ? undefined : { kind: 'actor-place', actor, attempt, job: { id: job, config }, shape, label }
    }
    case 'actorRelease':
      return { kind: 'actor-release', ...order.value }
    case 'bundlesPrepare': {
      const { group, attempt, bundles } = order.value
      return { kind: 'bundles-prepare', group, attempt, bundles: new Map(Object.entries(bundles).map(([index, amount]) => [Number(index), amount])) }
    }
    case 'bundlesCommit':
      return { kind: 'bundles-commit', ...order.value }
    case 'bundlesReturn':
      return { kind: 'bundles-return', ...order.value }
    case undefined:
      return undefined
  }
}

export function encodeReport(report: NodeReport): Report {
  switch (report.kind) {
    case 'actor-placed':
      return { report: { $case: 'actorPlaced', value: report } }
    case 'actor-unplaceable':
      return { report: { $case: 'actorUnplaceable', value: report } }
    case 'actor-worker-lost':
      return { report: { $case: 'actorWorkerLost', value: report } }
    case 'bundles-prepared':
      return { report: { $case: 'bundlesPrepared', value: report } }
    case 'bundles-refused':
      return { report: { $case: 'bundlesRefused', value: report } }
  }
}

/** @param node - the sender: it can only report about itself */
export function decodeReport({ report }: Report, node: string): NodeReport | undefined {
  switch (report?.$case) {
    case 'actorPlaced':
      return { kind: 'actor-placed', ...report.value, node }
    case 'actorUnplaceable': {
      const { failure } = report.value
      return failure === undefined ? undefined : { kind: 'actor-unplaceable', ...report.value, failure, node }
    }
    case 'actorWorkerLost': {
      const { failure } = report.value
      return failure === undefined ? undefined : { kind: 'actor-worker-lost', ...report.value, failure, node }
    }
    case 'bundlesPrepared':
      return { kind: 'bundles-prepared', ...report.value, node }
    case 'bundlesRefused':
      return { kind: 'bundles-refused', ...report.value, node }
    default:
      return undefined
  }
}

export const encodeView = (view: View, epoch: number): ClusterView => ({
  all: view.all,
  nodes: [...view.nodes],
  groups: [...view.groups],
  jobsEnded: [...view.jobsEnded],
  epoch,
})
