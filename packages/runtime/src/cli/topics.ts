/**
 * What `beamline list` lists.
 */
export const TOPICS = ['tasks', 'actors', 'objects', 'nodes', 'jobs', 'workers', 'leases', 'groups', 'drivers'] as const
export type Topic = (typeof TOPICS)[number]
