/**
 * On which node an actor goes: where its group has room for it, where the policy says, and those that hold nothing where fewest are.
 */
import type { Resources } from '../net/gen/node.ts'
import type { Actor, ActorPlace } from './actor.ts'
import type { GroupTable } from './group-table.ts'
import type { Member, Membership } from './membership.ts'
import { UNKNOWN_GROUP_MS } from './node-tables.ts'
import { ANYWHERE, chooseNode, covers, feasible } from './policy.ts'
import { formatResources, parseResources, UNIT } from './resources.ts'
import { wishText } from './wish-text.ts'

export interface ActorPlacesPort {
  /** Node of this head. */
  readonly self: string
  /** False: it is the only one. */
  readonly growable: boolean
  readonly nodes: Membership
  readonly groups: () => GroupTable
  readonly nowMs: () => number
  readonly restoring: () => boolean
  /** Node of a process. */
  readonly nodeOf: (process: string) => string | undefined
}

const NONE: Resources = { cpus: 0, gpus: 0, memoryBytes: 0, custom: {} }

export class ActorPlaces {
  readonly #port: ActorPlacesPort
  #turn = 0

  constructor(port: ActorPlacesPort) {
    this.#port = port
  }

  place(actor: Actor): ActorPlace {
    const { create } = actor
    const members = [...this.#port.nodes.members.values()]
    // A node alone decides itself, and says what it lacks.
    if (!this.#port.growable) return { kind: 'node', node: this.#port.self, now: true }
    const resources = parseResources(create.shape?.resources) ?? NONE
    const wish = create.shape ?? ANYWHERE
    const what = `actor ${create.name === '' ? create.className : `${create.className} "${create.name}"`}`
    const never = (wanted: string, has: string): ActorPlace => ({
      kind: 'never',
      failure: { code: 'INFEASIBLE', detailsJson: JSON.stringify({ what, wanted, has }) },
    })
    if (create.shape !== undefined && create.shape.placementGroup !== '') return this.#inGroup(actor, resources, never)
    const nothing = resources.cpus === 0 && resources.gpus === 0 && resources.memoryBytes === 0 && Object.keys(resources.custom).length === 0
    const near = this.#port.nodeOf(actor.owner) ?? this.#port.self
    if (nothing && wish.node === '' && wish.prefers === '') {
      const node = emptiest(
        members.filter((member) => feasible(member, resources, wish)),
        near,
      )
      if (node !== undefined) return { kind: 'node', node, now: true }
    }
    const chosen = chooseNode(members, resources, wish, near, this.#turn++)
    if (chosen !== undefined) return { kind: 'node', ...chosen }
    const wanted = `${formatResources(resources)}${wishText(wish)}`
    const fixed = wish.node !== '' && !wish.soft
    if (fixed && !this.#port.restoring() && this.#port.nodes.members.get(wish.node)?.state !== 'AWAY') return never(wanted, `no such node that takes work`)
    return { kind: 'wait', reason: `needs ${wanted}, which no node has now` }
  }

  #inGroup(actor: Actor, resources: Resources, never: (wanted: string, has: string) => ActorPlace): ActorPlace {
    const { placementGroup: id, bundle } = actor.create.shape as { placementGroup: string; bundle: number }
    const group = this.#port.groups().groups.get(id)
    const wanted = `${formatResources(resources)} in placement group ${id}${bundle < 0 ? '' : `, bundle ${bundle}`}`
    if (group === undefined || group.state === 'REMOVED') {
      if (group === undefined && this.#port.nowMs() - actor.sinceMs < UNKNOWN_GROUP_MS)
        return { kind: 'wait', reason: `placement group ${id} is not created yet` }
      return never(wanted, 'no such placement group (it was removed, or is of another cluster run)')
    }
    const fitting = group.bundles
      .map((_, index) => index)
      .filter((index) => (bundle < 0 || index === bundle) && covers(group.bundles[index] as Resources, resources))
    if (fitting.length === 0) {
      const all = group.bundles.map((each, index) => `bundle ${index}: ${formatResources(each)}`)
      return never(wanted, `a group of ${all.join('; ')}`)
    }
    const nodes = new Set(fitting.filter((index) => group.committed.has(index)).map((index) => group.nodes[index] as string))
    const alive = [...nodes].map((node) => this.#port.nodes.members.get(node)).filter((member) => member?.state === 'ALIVE') as Member[]
    const node = emptiest(alive, '')
    if (node === undefined) return { kind: 'wait', reason: `placement group ${id} is ${group.state}` }
    // Only the node knows how full its bundles are: one that waits long takes its turn elsewhere.
    return { kind: 'node', node, now: actor.node === node || alive.length > 1 }
  }
}

/** The node with fewest actors per CPU; `near` among equals. */
function emptiest(members: readonly Member[], near: string): string | undefined {
  let best: Member | undefined
  const load = ({ actors, total }: Member): number => actors / Math.max(1, total.cpus / UNIT)
  for (const member of members) {
    if (best === undefined || load(member) < load(best) || (load(member) === load(best) && member.node === near)) best = member
  }
  return best?.node
}
