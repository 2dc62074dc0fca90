/**
 * For tests of programs that use the runtime, and of the runtime itself: clusters of several nodes on this machine, networks between them with
 * faults, programs on them, and what is left when they end.
 */
export * from './process-report.ts'
export type { Baseline, Fact } from './baseline.ts'
export { type NodeRow, startTestCluster, TestCluster, type TestClusterOptions } from './cluster.ts'
export { type DriverOptions, type StartedDaemon, TestNode, type TestNodeOptions } from './cluster-node.ts'
export { TestHost, TestNetwork, networkUnavailable } from './network.ts'
export { Program, type ProgramEvent, type ProgramExit, type ProgramOptions, tell } from './program.ts'
export { type WaitOptions, until } from './wait.ts'
