/**
 * Two projects. `unit`: one module at a time, in parallel. `cluster`: real daemons, workers and programs, clusters of several nodes, their networks and
 * servers: three files at a time on two CPUs, since they wait more than they work. Packages are imported by name from their sources: no build is needed
 * before a test.
 */
import { defineConfig } from 'vitest/config'

// As Node resolves: files for bundlers ("module") do not run in it.
const conditions = ['@beamline/source', 'node', 'development|production']
// Functions that tests hand to other processes travel as they are written.
const everyProject = {
  oxc: { target: 'esnext' as const },
  resolve: { conditions },
  ssr: { resolve: { conditions, externalConditions: ['@beamline/source', 'node'] } },
}
const clusterTests = ['packages/*/test/{cluster,multi,store,testing}/**/*.test.ts', 'examples/**/*.test.ts', 'release-tests/test/cluster/**/*.test.ts']

export default defineConfig({
  test: {
    globalSetup: ['tools/compile-cache.ts'],
    projects: [
      {
        ...everyProject,
        test: {
          name: 'unit',
          include: ['packages/*/test/**/*.test.ts', 'release-tests/**/*.test.ts', 'tools/**/*.test.ts'],
          exclude: ['**/node_modules/**', ...clusterTests],
          pool: 'forks',
          execArgv: ['--conditions=@beamline/source', '--expose-gc'],
          testTimeout: 20_000,
          maxWorkers: '100%',
          sequence: { groupOrder: 1 },
        },
      },
      {
        ...everyProject,
        test: {
          name: 'cluster',
          include: clusterTests,
          exclude: ['**/node_modules/**'],
          setupFiles: ['tools/leftovers.ts'],
          pool: 'forks',
          execArgv: ['--conditions=@beamline/source', '--expose-gc'],
          testTimeout: 60_000,
          hookTimeout: 60_000,
          maxWorkers: 3,
          sequence: { groupOrder: 2 },
        },
      },
    ],
  },
})
