/**
 * Node daemon to node daemon. A module of its own: only daemons of several machines load its codec.
 */
import { MeshFrame, type MeshMessage } from './gen/mesh.ts'
import { type Service, service } from './link.ts'

export const MESH_SERVICE: Service<MeshMessage, MeshMessage> = service('/beamline.mesh.Mesh/Connect', MeshFrame, MeshFrame)
