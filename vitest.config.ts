/**
 * Three projects. `unit`: one module at a time, in parallel. `cluster`: real daemons, workers and programs, one file after the other, because each
 * starts processes of its own and some of them measure time. `multi`: clusters of several nodes, their networks and servers, which wait more than they
 * work: two files at a time. Packages are imported by name from their sources: no build is needed before a test.
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
const clusterTests = ['packages/*/test/cluster/**/*.test.ts', 'examples/**/*.test.ts', 'release-tests/test/cluster/**/*.test.ts']
const multiTests = ['packages/*/test/{multi,store,testing}/**/*.test.ts']
const withProcesses = {
  exclude: ['**/node_modules/**'],
  setupFiles: ['tools/leftovers.ts'],
  pool: 'forks' as const,
  execArgv: ['--conditions=@beamline/source', '--expose-gc'],
  testTimeout: 60_000,
  hookTimeout: 60_000,
}

export default defineConfig({
  test: {
    globalSetup: ['tools/compile-cache.ts'],
    projects: [
      {
        ...everyProject,
        test: {
          name: 'unit',
          include: ['packages/*/test/**/*.test.ts', 'release-tests/**/*.test.ts', 'tools/**/*.test.ts'],
          exclude: ['**/node_modules/**', ...clusterTests, ...multiTests],
          pool: 'forks',
          execArgv: ['--conditions=@beamline/source', '--expose-gc'],
          testTimeout: 20_000,
          maxWorkers: '100%',
          // Not 0: files of a project with one worker and no order of its own would run after all others.
          sequence: { groupOrder: 1 },
        },
      },
      {
        ...everyProject,
        test: { ...withProcesses, name: 'cluster', include: clusterTests, fileParallelism: false, maxWorkers: 1, sequence: { groupOrder: 2 } },
      },
      { ...everyProject, test: { ...withProcesses, name: 'multi', include: multiTests, maxWorkers: 2, sequence: { groupOrder: 3 } } },
    ],
  },
})
