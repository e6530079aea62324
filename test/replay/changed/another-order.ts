import { jobSteps, probeSteps } from '../../../src/workflows/steps.js';

/** A mistake on purpose: runs that are under way have asked the database first, and then the host. */
export async function BackupVM(): Promise<void> {
  await probeSteps('test-host').probeHost({ hypervisorId: '', repositoryId: '', vm: 'web01' });
  await jobSteps.lookUpTargets({});
}
