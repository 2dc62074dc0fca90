/**
 * Beamline's runtime: tasks, actors and shared-memory objects for TypeScript.
 */
export { type ActorHandle, type ActorMethod, type ActorOptions, type RemoteClass } from './api/actor.ts'
export { ActorPool, type ActorPoolOptions, type PoolCall } from './api/actor-pool.ts'
export {
  type CancelOptions,
  type CurrentTask,
  cancel,
  currentTask,
  type GetOptions,
  type Got,
  get,
  getActor,
  kill,
  put,
  stop,
  type WaitOptions,
  wait,
} from './api/calls.ts'
export { type Explanation, explain } from './api/explain.ts'
export type { S3Options, SpillOptions } from './daemon/options.ts'
export { type Cluster, clusterInfo, type InitOptions, init, isInitialized, shutdown } from './api/init.ts'
export { ObjectRef, ObjectRefStream } from './api/object-ref.ts'
export type { Environment, ResourceOptions } from './api/options.ts'
export { type Bundle, PlacementGroup, type PlacementGroupOptions, placementGroup } from './api/placement-group.ts'
export { Queue, type QueueBatchOptions, type QueueOptions } from './api/queue.ts'
export { remote } from './api/remote.ts'
export type { Args, RefOf, RefsOf, RemoteFunction, RetryOn, TaskOptions } from './api/task.ts'
export { type ClassCodec, registerClass, registerType, type TypeCodec } from './objects/registry.ts'
export { BeamlineError, type ErrorCode, type ErrorDetails } from './errors.ts'
