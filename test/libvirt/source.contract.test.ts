import { describeSourceContract } from '../contract/source.js';
import { biosFixture } from './bios-domain.js';

describeSourceContract('libvirt', biosFixture);
